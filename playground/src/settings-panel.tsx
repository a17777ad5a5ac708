import { useState } from "preact/hooks";
import { DEFAULTS, type NumberKey, RANGES, RULES, type Rule, readNumber, type Settings } from "./settings.js";

interface Props {
  settings: Settings;
  /** The block size of requests that name none. */
  served: number | undefined;
  onChange: (change: Partial<Settings>) => void;
}

const RULE_NAMES: Record<Rule, [string, string]> = {
  static: ["Static", "Each pass commits an equal share of the tokens: the most probable ones"],
  threshold: ["Threshold", "Each pass commits every token more probable than the threshold, at least one"],
  hybrid: ["Hybrid", "The static share or the threshold, whichever commits more"],
  factor: ["Factor", "As many as (n + 1)(1 − p) stays below the factor"],
  entropy: ["Entropy bound", "Positions while the sum of their entropies stays below the bound"],
};

const DECODER_NAMES = { diffusion: "Diffusion", autoregressive: "Autoregressive", both: "Side by side" } as const;

/** Every option of a request. */
export function SettingsPanel({ settings, served, onChange }: Props) {
  const number = (key: NumberKey, label: string, hint?: string, placeholder?: string) => (
    <NumberField
      key={key}
      name={key}
      label={label}
      hint={hint}
      placeholder={placeholder}
      value={settings[key]}
      onChange={(value) => onChange({ [key]: value })}
    />
  );
  const { rule, decoder } = settings;
  const diffuses = decoder !== "autoregressive";
  return (
    <form class="settings" aria-label="Settings" onSubmit={(event) => event.preventDefault()}>
      <fieldset>
        <legend>Decoding</legend>
        <label class="field">
          <span>Mode</span>
          <select
            name="decoder"
            value={decoder}
            onChange={(event) => onChange({ decoder: event.currentTarget.value as Settings["decoder"] })}
          >
            {Object.entries(DECODER_NAMES).map(([value, name]) => (
              <option key={value} value={value}>
                {name}
              </option>
            ))}
          </select>
        </label>
        {decoder === "both" && (
          <label class="check" title="At once they share the machine, and each is slower than alone">
            <input
              type="checkbox"
              name="together"
              checked={settings.together}
              onChange={(event) => onChange({ together: event.currentTarget.checked })}
            />
            <span>At once, not one after the other</span>
          </label>
        )}
        {diffuses && (
          <>
            {number("blockSize", "Block size", "Tokens denoised together", served ? `${served}` : "as served")}
            <label class="field" title={RULE_NAMES[rule][1]}>
              <span>Commit rule</span>
              <select
                name="rule"
                value={rule}
                onChange={(event) => onChange({ rule: event.currentTarget.value as Rule })}
              >
                {RULES.map((each) => (
                  <option key={each} value={each}>
                    {RULE_NAMES[each][0]}
                  </option>
                ))}
              </select>
            </label>
            <p class="note">{RULE_NAMES[rule][1]}.</p>
            {(rule === "static" || rule === "hybrid") && number("steps", "Steps", "Passes per block", "block size")}
            {(rule === "threshold" || rule === "hybrid") && number("threshold", "Threshold")}
            {rule === "factor" && number("factor", "Factor")}
            {rule === "entropy" && number("bound", "Bound", "In nats")}
          </>
        )}
      </fieldset>
      <fieldset>
        <legend>Sampling</legend>
        {number("temperature", "Temperature", "0: the most likely token")}
        {number("topP", "Top-p")}
        {number("topK", "Top-k", "0: all")}
        {number("seed", "Seed", "Equal seeds, equal texts", "random")}
      </fieldset>
      <fieldset>
        <legend>Output</legend>
        {number("maxTokens", "Max tokens")}
        {number("alternatives", "Alternatives", "Likeliest tokens told with each, 0 to 20")}
        <label class="field tall">
          <span>Stop strings</span>
          <textarea
            name="stop"
            rows={2}
            value={settings.stop}
            placeholder={"one a line, \\n for a break"}
            spellcheck={false}
            onInput={(event) => onChange({ stop: event.currentTarget.value })}
          />
        </label>
      </fieldset>
      <button type="button" class="plain" onClick={() => onChange({ ...DEFAULTS, task: settings.task })}>
        Reset settings
      </button>
    </form>
  );
}

interface NumberProps {
  name: NumberKey;
  label: string;
  hint?: string;
  placeholder?: string;
  value: number | null;
  onChange: (value: number | null) => void;
}

/** A text field rather than type=number, which hides what it holds when that is no number. */
function NumberField({ name, label, hint, placeholder, value, onChange }: NumberProps) {
  const range = RANGES[name];
  const [typed, setTyped] = useState<string>();
  const text = typed ?? (value === null ? "" : String(value));
  const wrong = readNumber(text, range) === undefined;
  const about = `${label}: ${range.integer ? "a whole number" : "a number"} from ${range.min} to ${range.max}`;
  return (
    <label class={`field${wrong ? " wrong" : ""}`} title={hint}>
      <span>{label}</span>
      <input
        name={name}
        inputMode={range.integer ? "numeric" : "decimal"}
        autocomplete="off"
        value={text}
        placeholder={placeholder}
        aria-invalid={wrong}
        onInput={(event) => {
          const next = event.currentTarget.value;
          const read = readNumber(next, range);
          setTyped(next);
          if (read !== undefined) onChange(read);
        }}
        onBlur={() => {
          if (!wrong) setTyped(undefined);
        }}
      />
      {wrong && <em role="alert">{about}.</em>}
    </label>
  );
}
