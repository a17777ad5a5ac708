// The case conversions and tests of Python's str, which differ from JavaScript's for title case and some letters.

import * as unicode from "./unicode.js";

/** str.capitalize() */
export function capitalize(text: string): string {
  const [first] = text;
  if (first === undefined) return "";
  return unicode.titleCase(first) + text.toLowerCase().slice(first.toLowerCase().length);
}

/** str.casefold(): a simple case folding: upper case, then lower case, so that characters that differ only in case become equal. */
export function caseFold(text: string): string {
  if (/^[\p{ASCII}]*$/u.test(text)) return text.toLowerCase();
  return Array.from(text, (letter) =>
    letter === "ß" || letter === "ẞ" ? "ss" : FOLDS_AS_UPPER.test(letter) ? letter : foldOne(letter),
  ).join("");
}

/** Cherokee folds to its upper case. */
const FOLDS_AS_UPPER = /[\u13a0-\u13f5]/;

function foldOne(letter: string): string {
  if (letter === "ς") return "σ";
  const folded = letter.toUpperCase().toLowerCase();
  if (/^[\u0300-\u{1ffff}\x80-\u02ff]+$/u.test(letter) && [...folded].length > 1) return folded.replaceAll("ς", "σ");
  return (letter === "ı" ? letter : folded).replaceAll("ς", "σ");
}

/** str.title() */
export function title(text: string): string {
  const lower = text.toLowerCase();
  // If no letter changes its length, the lower case of the whole text has the correct final sigmas.
  const aligned = [...lower].length === [...text].length ? [...lower] : undefined;
  let isInWord = false;
  return Array.from(text, (letter, i) => {
    const cased = isInWord ? (aligned?.[i] ?? letter.toLowerCase()) : unicode.titleCase(letter);
    isInWord = unicode.CASED.test(letter);
    return cased;
  }).join("");
}

/** str.swapcase() */
export function swapCase(text: string): string {
  const lower = text.toLowerCase();
  const aligned = [...lower].length === [...text].length ? [...lower] : undefined;
  return Array.from(text, (letter, i) => {
    if (unicode.UPPER.test(letter)) return aligned?.[i] ?? letter.toLowerCase();
    return unicode.LOWER.test(letter) ? letter.toUpperCase() : letter;
  }).join("");
}

/** str.islower() */
export function isLower(text: string): boolean {
  const letters = [...text];
  if (letters.some((letter) => unicode.UPPER.test(letter) || unicode.TITLE.test(letter))) return false;
  return letters.some((letter) => unicode.LOWER.test(letter));
}

/** str.isupper() */
export function isUpper(text: string): boolean {
  const letters = [...text];
  if (letters.some((letter) => unicode.LOWER.test(letter) || unicode.TITLE.test(letter))) return false;
  return letters.some((letter) => unicode.UPPER.test(letter));
}

/** str.istitle() */
export function isTitle(text: string): boolean {
  let isCased = false;
  let isInWord = false;
  for (const letter of text) {
    if (unicode.UPPER.test(letter) || unicode.TITLE.test(letter)) {
      if (isInWord) return false;
      isInWord = true;
      isCased = true;
    } else if (unicode.LOWER.test(letter)) {
      if (!isInWord) return false;
      isCased = true;
    } else isInWord = false;
  }
  return isCased;
}
