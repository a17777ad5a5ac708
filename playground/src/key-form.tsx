import { useState } from "preact/hooks";

/** Asks for the API key. It stays in this tab's session storage. */
export function KeyForm({ message, onKey }: { message: string; onKey: (key: string) => void }) {
  const [key, setKey] = useState("");
  return (
    <form
      class="key"
      aria-label="API key"
      onSubmit={(event) => {
        event.preventDefault();
        if (key.trim() !== "") onKey(key.trim());
      }}
    >
      <p role="alert">{message}</p>
      <label>
        <span class="hidden">API key</span>
        <input
          type="password"
          name="key"
          autocomplete="off"
          placeholder="API key"
          value={key}
          onInput={(event) => setKey(event.currentTarget.value)}
        />
      </label>
      <button type="submit">Use key</button>
      <p class="note">It is kept until this tab is closed, and sent to this server only.</p>
    </form>
  );
}
