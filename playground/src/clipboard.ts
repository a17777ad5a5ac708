import { useState } from "preact/hooks";

/** A function that copies a text, and what to show on its button for a moment afterwards. */
export function useCopy(): [string, (text: string) => void] {
  const [said, say] = useState("");
  const copy = (text: string) => {
    const show = (words: string) => {
      say(words);
      setTimeout(() => say(""), 1500);
    };
    copyText(text).then(
      () => show("Copied"),
      () => show("Not allowed"),
    );
  };
  return [said, copy];
}

/** Without HTTPS there is no clipboard object, only the old command. */
async function copyText(text: string): Promise<void> {
  if (navigator.clipboard) return navigator.clipboard.writeText(text);
  const field = document.createElement("textarea");
  field.value = text;
  document.body.append(field);
  field.select();
  const done = document.execCommand("copy");
  field.remove();
  if (!done) throw new Error("the browser does not let the page copy");
}

/** Gives the reader a file. */
export function saveText(name: string, text: string): void {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type: "application/json" }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}
