import { oneLine, percent } from "./format.js";
import type { Token } from "./recording.js";

/** The token that is looked at and what else the model thought of at its place. */
export function Inspector({ token, position }: { token: Token | undefined; position: number | undefined }) {
  if (!token) {
    const text =
      position === undefined
        ? "Point at a token, or move to it, to see what else was likely there."
        : "Still masked in this pass.";
    return <p class="inspector quiet">{text}</p>;
  }
  const listed =
    token.alternatives.length > 0 ? token.alternatives : [{ text: token.text, logprob: token.logprob ?? 0 }];
  return (
    <div class="inspector" role="status">
      <p>
        <code>{oneLine(token.text)}</code>
        <span class="quiet">
          position {token.position}
          {token.id >= 0 && `, id ${token.id}`}, committed in pass {token.pass} with {percent(token.logprob)}
        </span>
      </p>
      <ol>
        {listed.map((each, i) => (
          <li key={i} class={each.text === token.text ? "chosen" : ""}>
            <code>{oneLine(each.text)}</code>
            <svg viewBox="0 0 100 1" preserveAspectRatio="none" aria-hidden="true">
              <rect width={100 * Math.exp(each.logprob)} height="1" />
            </svg>
            <span>{percent(each.logprob)}</span>
          </li>
        ))}
      </ol>
    </div>
  );
}
