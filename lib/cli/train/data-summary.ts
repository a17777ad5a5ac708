import { type CorpusSummary, formatSummary, type SftSummary } from "../../data/index.js";
import type { Stage } from "../../train/index.js";
import { shownSummary } from "../show.js";

/** What the data of a curriculum is made of and what of it was skipped, each source once; nothing of data of other kinds. */
export function dataSummaries(stages: readonly Stage[]): string[] {
  const summaries = new Map<unknown, string>();
  for (const { name, data } of stages) {
    const summary = summaryOf(data);
    if (summary === undefined || summaries.has(summary)) continue;
    const text = "rows" in summary ? formatSftSummary(summary) : shownSummary(formatSummary(summary));
    summaries.set(summary, `data from stage '${name}' on: ${text.replaceAll("\n", "\n  ")}`);
  }
  const texts = [...summaries.values()];
  return texts.length === 1 ? texts.map((text) => text.replace(/^data from stage '.*?' on: /, "data: ")) : texts;
}

/** A stage's data may be a dataset, its loader, or what prepared both. */
function summaryOf(data: unknown): CorpusSummary | SftSummary | undefined {
  const { summary, dataset, loader } = data as { summary?: object; dataset?: unknown; loader?: unknown };
  if (summary !== undefined && ("documents" in summary || "rows" in summary)) return summary as CorpusSummary;
  const inner = dataset ?? loader;
  return inner === undefined ? undefined : summaryOf(inner);
}

function formatSftSummary(summary: SftSummary): string {
  const { samples, rows, answerTokens, tokens, truncated, unread, skipped, examples } = summary;
  const count = (value: number) => value.toLocaleString("en-US");
  const lines = [
    `${count(samples)} samples in ${count(rows)} rows, ${count(answerTokens)} of ${count(tokens)} tokens are answers`,
  ];
  if (truncated > 0) lines.push(`cut off at the end of a row: ${count(truncated)}`);
  const fields = Object.entries(unread).map(([field, number]) => `${field} (${count(number)})`);
  if (fields.length > 0) lines.push(`in no sample: the fields ${fields.join(", ")}`);
  const reasons = Object.entries(skipped).map(
    ([reason, number]) => `${count(number)} ${reason} (${examples[reason as keyof typeof examples]?.join(", ")})`,
  );
  if (reasons.length > 0) lines.push(`skipped: ${reasons.join(", ")}`);
  return lines.join("\n");
}
