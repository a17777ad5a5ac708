/** An object parsed from config.json. */
export type ConfigJson = Record<string, unknown>;

/** A value as it is shown in a message, at most 60 characters of JSON. */
export function brief(value: unknown): string {
  const text = JSON.stringify(value) ?? String(value);
  return text.length > 60 ? `${text.slice(0, 57)}...` : text;
}

/** A flag of config.json, false where it is missing; anything else but true and false is a problem. */
export function booleanOf(source: ConfigJson, key: string, problems: string[]): boolean {
  const value = source[key] ?? false;
  if (typeof value !== "boolean") problems.push(`${key} is ${brief(value)}, allowed: true, false`);
  return value === true;
}
