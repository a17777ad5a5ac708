// Character properties of Python's str methods, which differ from JavaScript's \s, toUpperCase and \d.

/** Python's white space, as the inside of a character class. */
export const SPACE = "\\t-\\r\\x1c- \\x85\\xa0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000";
/** The line ends of str.splitlines, as the inside of a character class. */
const LINE_ENDS = "\\n\\r\\v\\f\\x1c-\\x1e\\x85\\u2028\\u2029";
/** Digits that are not decimal (Numeric_Type=Digit), such as superscripts and circled digits. */
const DIGIT =
  "\\xb2\\xb3\\xb9\\u1369-\\u1371\\u19da\\u2070\\u2074-\\u2079\\u2080-\\u2089\\u2460-\\u2468\\u2474-\\u247c" +
  "\\u2488-\\u2490\\u24ea\\u24f5-\\u24fd\\u24ff\\u2776-\\u277e\\u2780-\\u2788\\u278a-\\u2792\\u{10a40}-\\u{10a43}" +
  "\\u{10e60}-\\u{10e68}\\u{11052}-\\u{1105a}\\u{1f100}-\\u{1f10a}";
/** Numeric ideographs. */
const NUMERIC =
  "㐅㒃㠪㭍一七万三九二五世亿什仟仨伍佰億兆兩八六十千升卅卌叁-叄四壱壹幺廾廿弌-弎弐拾捌柒漆玖百肆萬貮貳贰阡陆陌陸零" +
  "\\uf96b\\uf973\\uf978\\uf9b2\\uf9d1\\uf9d3\\uf9fd\\u{20001}\\u{20064}\\u{200e2}\\u{20121}\\u{2092a}\\u{20983}" +
  "\\u{2098c}\\u{2099c}\\u{20aea}\\u{20afd}\\u{20b19}\\u{22390}\\u{22998}\\u{23b1b}\\u{2626d}\\u{2f890}" +
  "\\u4ebf-\\u4ec0\\u5343-\\u5345\\u53c1-\\u53c4\\u5efe-\\u5eff";

export const ALPHA = /^\p{L}$/u;
export const DECIMAL = /^\p{Nd}$/u;
export const DIGITS = new RegExp(`^[\\p{Nd}${DIGIT}]$`, "u");
export const NUMERICS = new RegExp(`^[\\p{N}${NUMERIC}]$`, "u");
export const ALNUM = new RegExp(`^[\\p{L}\\p{N}${NUMERIC}]$`, "u");
export const IS_SPACE = new RegExp(`^[${SPACE}]$`);
export const IDENTIFIER = /^[\p{XID_Start}_]\p{XID_Continue}*$/u;
export const CASED = /^\p{Cased}$/u;
export const UPPER = /^\p{Uppercase}$/u;
export const LOWER = /^\p{Lowercase}$/u;
export const TITLE = /^\p{Lt}$/u;
/** Words as `\w+` of Python's re. */
export const WORDS = new RegExp(`[_\\p{L}\\p{N}${NUMERIC}]+`, "gu");
/** Characters that repr() escapes. */
export const UNPRINTABLE = /[\p{Cc}\p{Cf}\p{Cs}\p{Co}\p{Cn}\p{Zl}\p{Zp}]|(?! )\p{Zs}/u;

const LINE_END = new RegExp(`\\r\\n|[${LINE_ENDS}]`, "g");
const LEADING_SPACE = new RegExp(`^[${SPACE}]+`);

/** Letters whose title case is not their upper case. */
const TITLE_CASE = new Map<string, string>(
  Object.entries({ ß: "Ss", և: "Եւ", ﬀ: "Ff", ﬁ: "Fi", ﬂ: "Fl", ﬃ: "Ffi", ﬄ: "Ffl", ﬅ: "St", ﬆ: "St" }),
);
for (const [letters, title] of [
  ["ǄǅǆǇǈǉǊǋǌǱǲǳ", "ǅǅǅǈǈǈǋǋǋǲǲǲ"],
  ["ﬓﬔﬕﬖﬗ", ["Մն", "Մե", "Մի", "Վն", "Մխ"]],
  ["ᾲᾴᾷῂῄῇῲῴῷ", ["Ὰͅ", "Άͅ", "ᾼ͂", "Ὴͅ", "Ήͅ", "ῌ͂", "Ὼͅ", "Ώͅ", "ῼ͂"]],
  ["ᾳᾼῃῌῳῼ", "ᾼᾼῌῌῼῼ"],
] as const) {
  [...letters].forEach((letter, i) => {
    TITLE_CASE.set(letter, title[i]);
  });
}
for (const base of [0x1f80, 0x1f90, 0x1fa0]) {
  for (let i = 0; i < 16; i++) TITLE_CASE.set(String.fromCodePoint(base + i), String.fromCodePoint(base + 8 + (i & 7)));
}
// Georgian letters have no title case.
for (let code = 0x10d0; code <= 0x10ff; code++) {
  if (code !== 0x10fb && code !== 0x10fc) TITLE_CASE.set(String.fromCodePoint(code), String.fromCodePoint(code));
}

export function titleCase(letter: string): string {
  return TITLE_CASE.get(letter) ?? letter.toUpperCase();
}

/** The lines with or without their ends, as in str.splitlines. */
export function splitLines(text: string, keepEnds: boolean): string[] {
  const lines: string[] = [];
  let start = 0;
  for (const match of text.matchAll(LINE_END)) {
    const end = match.index + match[0].length;
    lines.push(text.slice(start, keepEnds ? end : match.index));
    start = end;
  }
  if (start < text.length) lines.push(text.slice(start));
  return lines;
}

/** The text without the characters of `chars` (white space if undefined) at its ends. */
export function strip(text: string, chars: string | undefined, left: boolean, right: boolean): string {
  if (chars === undefined) {
    let end = text.length;
    if (right) while (end > 0 && IS_SPACE.test(text[end - 1])) end--;
    const kept = text.slice(0, end);
    return left ? kept.replace(LEADING_SPACE, "") : kept;
  }
  const set = new Set(chars);
  let start = 0;
  let end = text.length;
  if (left) {
    for (const letter of text) {
      if (!set.has(letter)) break;
      start += letter.length;
    }
  }
  while (right && end > start) {
    const code = text.charCodeAt(end - 1);
    const isPair = code >= 0xdc00 && code < 0xe000 && end - 2 >= start && /[\ud800-\udbff]/.test(text[end - 2]);
    const letter = text.slice(isPair ? end - 2 : end - 1, end);
    if (!set.has(letter)) break;
    end -= letter.length;
  }
  return text.slice(start, end);
}

/**
 * The words between runs of white space, with at most `limit` splits (-1: no limit), as in str.split() and
 * str.rsplit().
 */
export function splitSpace(text: string, limit: number, fromRight: boolean): string[] {
  const words: string[] = [];
  let rest = strip(text, undefined, true, true);
  if (fromRight) {
    while (rest !== "") {
      if (limit >= 0 && words.length === limit) {
        words.push(strip(rest, undefined, false, true));
        break;
      }
      let start = rest.length;
      while (start > 0 && !IS_SPACE.test(rest[start - 1])) start--;
      words.push(rest.slice(start));
      rest = strip(rest.slice(0, start), undefined, false, true);
    }
    return words.reverse();
  }
  if (limit < 0) return rest === "" ? [] : rest.split(new RegExp(`[${SPACE}]+`));
  rest = strip(text, undefined, true, false);
  while (rest !== "") {
    if (words.length === limit) {
      words.push(rest);
      break;
    }
    let end = 0;
    while (end < rest.length && !IS_SPACE.test(rest[end])) end++;
    words.push(rest.slice(0, end));
    rest = strip(rest.slice(end), undefined, true, false);
  }
  return words;
}
