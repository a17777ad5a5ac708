/** What the colours of the canvas mean. */
export function Legend() {
  return (
    <p class="legend">
      <span class="t mask" aria-hidden="true" /> masked
      <span class="scale" aria-hidden="true">
        {[0, 1, 2, 3, 4, 5].map((each) => (
          <i key={each} class={`t h${each}`} />
        ))}
      </span>
      sure to doubtful
    </p>
  );
}
