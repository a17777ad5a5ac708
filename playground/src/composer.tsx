import type { Message } from "./protocol.js";
import { TASKS, type Task, type Texts } from "./settings.js";

const NAMES: Record<Task, string> = { complete: "Complete", infill: "Infill", chat: "Chat" };

interface Props {
  task: Task;
  texts: Texts;
  history: readonly Message[];
  /** Why a task cannot be had of this model. */
  missing: Partial<Record<Task, string>>;
  onTask: (task: Task) => void;
  onTexts: (texts: Texts) => void;
  onForget: () => void;
}

/** What the model is given: a prompt, two sides of a gap, or a dialogue. */
export function Composer({ task, texts, history, missing, onTask, onTexts, onForget }: Props) {
  const field = (key: keyof Texts, label: string, rows: number, placeholder: string) => (
    <label class="text">
      <span>{label}</span>
      <textarea
        name={key}
        rows={rows}
        value={texts[key]}
        placeholder={placeholder}
        spellcheck={false}
        autocapitalize="off"
        onInput={(event) => onTexts({ ...texts, [key]: event.currentTarget.value })}
      />
    </label>
  );
  return (
    <section class="composer" aria-label="Input">
      <fieldset class="tabs">
        <legend class="hidden">Task</legend>
        {TASKS.map((each) => (
          <label key={each} class={each === task ? "on" : ""} title={missing[each]}>
            <input
              type="radio"
              name="task"
              value={each}
              checked={each === task}
              disabled={missing[each] !== undefined && each !== task}
              onChange={() => onTask(each)}
            />
            {NAMES[each]}
          </label>
        ))}
      </fieldset>
      {missing[task] && <p class="note">{missing[task]}</p>}
      {task === "complete" && field("prompt", "Prompt", 3, "def quicksort(items):")}
      {task === "infill" && (
        <>
          {field("prefix", "Before the gap", 3, "def mean(values):\n    ")}
          {field("suffix", "After the gap", 2, "\n    return total / len(values)")}
        </>
      )}
      {task === "chat" && (
        <>
          {history.length > 0 && (
            <ol class="dialogue" aria-label="Dialogue so far">
              {history.map((message, i) => (
                <li key={i} class={message.role}>
                  <b>{message.role === "user" ? "You" : "Model"}</b>
                  <pre>{message.content}</pre>
                </li>
              ))}
            </ol>
          )}
          {field("message", "Message", 3, "Write a function that reverses a string.")}
          <details class="system">
            <summary>System message</summary>
            {field("system", "System message", 2, "")}
          </details>
          {history.length > 0 && (
            <button type="button" class="plain" onClick={onForget}>
              New dialogue
            </button>
          )}
        </>
      )}
    </section>
  );
}
