export const percent = (logprob: number | null): string => {
  if (logprob === null) return "–";
  const p = Math.exp(logprob) * 100;
  if (p >= 99.95) return "100 %";
  return p < 0.1 ? "< 0.1 %" : `${p.toFixed(1)} %`;
};

export const seconds = (value: number | undefined): string => {
  if (value === undefined) return "–";
  return value < 1 ? `${Math.round(value * 1000)} ms` : `${value.toFixed(value < 10 ? 2 : 1)} s`;
};

export const count = (value: number): string => value.toLocaleString("en-US").replaceAll(",", "\u202f");

/** A token's text on one line. */
export const oneLine = (text: string): string =>
  text === "" ? "∅" : text.replaceAll("\n", "↵").replaceAll("\t", "⇥").replaceAll(" ", "·");

export const plural = (value: number, one: string, many = `${one}s`): string =>
  `${count(value)} ${value === 1 ? one : many}`;
