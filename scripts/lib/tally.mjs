// The arithmetic of npm test: one for each check, one for each test.

/**
 * @typedef {object} Tally
 * @property {number} passed
 * @property {number} failed
 * @property {number} skipped
 */

/** @returns {Tally} */
export function emptyTally() {
  return { passed: 0, failed: 0, skipped: 0 };
}

/** @param {...Tally} tallies */
export function sum(...tallies) {
  const total = emptyTally();
  for (const { passed, failed, skipped } of tallies) {
    total.passed += passed;
    total.failed += failed;
    total.skipped += skipped;
  }
  return total;
}

/** A check that is one thing: lint, types. */
export function tallyCheck(ok) {
  return { passed: ok ? 1 : 0, failed: ok ? 0 : 1, skipped: 0 };
}

/**
 * Counts vitest's JSON report.
 * @param {any} report parsed JSON, or null if vitest wrote none
 * @param {number} exitCode of vitest
 * @returns {Tally}
 */
export function tallyVitest(report, exitCode) {
  const tally = emptyTally();
  for (const file of report?.testResults ?? []) {
    const tests = file.assertionResults ?? [];
    const count = (...states) => tests.filter(({ status }) => states.includes(status)).length;
    tally.passed += count("passed");
    tally.skipped += count("skipped", "todo", "disabled");
    // "pending": the process ended before the test did. vitest calls such a file passed.
    const failed = count("failed", "pending");
    // A file that could not be loaded, whose hook threw, or that ended its process before it had a test.
    const brokenFile = failed === 0 && (file.status === "failed" || tests.length === 0);
    tally.failed += brokenFile ? 1 : failed;
  }
  // A crash, an unhandled error, a report that was never written: vitest says so only by its exit code.
  if (exitCode !== 0 && tally.failed === 0) tally.failed = 1;
  return tally;
}

/** The last line of npm test. */
export function finalLine({ passed, failed, skipped }) {
  return `${passed} passed, ${failed} failed${skipped > 0 ? `, ${skipped} skipped` : ""}`;
}

/** 0 only if something ran and nothing failed. */
export function exitCodeOf({ passed, failed }) {
  return failed === 0 && passed > 0 ? 0 : 1;
}
