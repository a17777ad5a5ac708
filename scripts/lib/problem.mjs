/** A set-up problem that the user can mend: what is wrong, and the commands or steps that mend it. */
export class SetupProblem extends Error {
  /**
   * @param {string} code stable name such as "NO_COMPILER"
   * @param {string} message what is wrong, one sentence
   * @param {string[]} [mend] lines that say what to do, most likely first
   */
  constructor(code, message, mend = []) {
    super(message);
    this.name = "SetupProblem";
    this.code = code;
    this.mend = mend;
  }
}
