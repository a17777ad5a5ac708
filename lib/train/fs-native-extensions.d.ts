// The package has no types; these declare the part that is used here.
declare module "fs-native-extensions" {
  /**
   * Tries to lock an open file exclusively: fcntl(F_OFD_SETLK) on Linux. Returns false if another descriptor holds the
   * lock.
   */
  export function tryLock(descriptor: number): boolean;
}
