/** A JSON object. */
export type JsonRecord = Readonly<Record<string, unknown>>;

/** A record that cannot be used: "form" if all of its kind would be lost, "malformed" if it alone is wrong. */
export class RecordError extends Error {
  readonly kind: "form" | "malformed";

  constructor(kind: "form" | "malformed", message: string) {
    super(message);
    this.name = "RecordError";
    this.kind = kind;
  }
}

export function asRecord(value: unknown): JsonRecord {
  if (typeof value === "object" && value !== null && !Array.isArray(value)) return value as JsonRecord;
  throw new RecordError("malformed", "not a JSON object in UTF-8");
}

/** @throws RecordError unless it is a list with something in it */
export function readList(value: unknown, key: string): readonly unknown[] {
  if (!Array.isArray(value)) throw new RecordError("malformed", `${key}: expected a list`);
  return value;
}

/** Whether a field says anything: null, "", [] and {} do not. */
export function filled(value: unknown): boolean {
  if (value === undefined || value === null || value === "") return false;
  return typeof value !== "object" || Object.keys(value).length > 0;
}
