// The package has no types of its own; these are of what is used here.
declare module "fs-native-extensions" {
  /** Locks an open file, exclusively, without waiting: fcntl(F_OFD_SETLK) on Linux. false: another descriptor has it locked. */
  export function tryLock(descriptor: number): boolean;
}
