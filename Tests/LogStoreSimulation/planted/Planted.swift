import Glibc

/// Which of the bugs in this folder is switched on, by LOGSTORE_PLANTED: only in the copy that `run` makes.
enum Planted {
  private static let name: [UInt8] = getenv("LOGSTORE_PLANTED").map { Array(String(cString: $0).utf8) } ?? []

  static func has(_ bug: StaticString) -> Bool {
    bug.utf8CodeUnitCount == name.count && memcmp(bug.utf8Start, name, name.count) == 0
  }
}
