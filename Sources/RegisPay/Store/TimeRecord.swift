import Crypto
import Glibc

/// What ``SteadyTime`` and ``LeastTime`` were at a moment, kept over restarts in the file `time` of the data directory.
///
/// The log's times stand still after a clock that was ahead is set right, until the clock has caught up. A process that began
/// with them alone would take an idempotency key for younger than it is by all the time since, with every restart, and might
/// repeat a step after the PSP has forgotten its key.
struct TimeRecord: Sendable, Hashable {
  /// Microseconds since 1970, by ``SteadyTime``.
  var steadyMicroseconds: UInt64
  /// Microseconds by ``LeastTime``; nil in a file of an earlier version.
  var leastMicroseconds: UInt64?
  /// Microseconds since the machine was started, those included in which it was suspended (`CLOCK_BOOTTIME`), whatever a
  /// container's own time namespace makes of them.
  var bootMicroseconds: UInt64
  /// The kernel's name for this start of the machine.
  var bootID: String
  /// The machine's clock, in microseconds since 1970.
  var clockMicroseconds: UInt64

  /// The steady time at a later moment. On the same start of the machine it is exact, whatever the clock was set to. After
  /// another start the clock tells how much time has passed: none if it was set back since.
  func steadyMicroseconds(at now: TimeRecord) -> UInt64 {
    let passed =
      exactMicroseconds(to: now)
      ?? (now.clockMicroseconds > clockMicroseconds ? now.clockMicroseconds - clockMicroseconds : 0)
    return steadyMicroseconds.addingReportingOverflow(passed).partialValue
  }

  /// The least time at a later moment; nil if it is not known. After another start of the machine only the time since that start has
  /// passed for certain.
  func leastMicroseconds(at now: TimeRecord) -> UInt64? {
    leastMicroseconds?.addingReportingOverflow(exactMicroseconds(to: now) ?? now.bootMicroseconds).partialValue
  }

  /// The time from this record to a later one on the same start of the machine; nil on another start.
  private func exactMicroseconds(to now: TimeRecord) -> UInt64? {
    guard !bootID.isEmpty, bootID == now.bootID, now.bootMicroseconds >= bootMicroseconds else { return nil }
    return now.bootMicroseconds - bootMicroseconds
  }

  /// This moment.
  static func now(steady: UInt64, least: UInt64? = nil) -> TimeRecord {
    var time = timespec()
    clock_gettime(CLOCK_BOOTTIME, &time)
    return TimeRecord(
      steadyMicroseconds: steady, leastMicroseconds: least,
      bootMicroseconds: BootOffset.ofThisProcess.removed(
        from: UInt64(time.tv_sec) * 1_000_000 + UInt64(time.tv_nsec) / 1_000),
      bootID: thisBootID, clockMicroseconds: Clock.microseconds())
  }

  /// Empty where the kernel does not tell: then the clock counts, as after another start of the machine.
  private static let thisBootID: String = {
    let bytes = (try? SmallFile.read("/proc/sys/kernel/random/boot_id")) ?? []
    return String(decoding: bytes.filter { $0 != UInt8(ascii: "\n") }, as: UTF8.self)
  }()

  // MARK: - The file

  static func path(in directory: String) -> String { directory + "/time" }

  /// - Throws: for a file that is not one of these; ages are then as old as the log's times say.
  init?(contentsOf path: String) throws(SmallFile.Failure) {
    guard let bytes = try SmallFile.read(path) else { return nil }
    guard let json = try? JSONReader.read(bytes), let steady = Self.number(json["steadyMicroseconds"]),
      let boot = Self.number(json["bootMicroseconds"]), let id = json["bootID"]?.text,
      let clock = Self.number(json["clockMicroseconds"])
    else { throw Self.notOurs(path) }
    self.init(
      steadyMicroseconds: steady, leastMicroseconds: Self.number(json["leastMicroseconds"]), bootMicroseconds: boot,
      bootID: id, clockMicroseconds: clock)
    // A wrong digit would make all clients' keys old, and a repeated request a second payment. An earlier version wrote none.
    if let checksum = json["checksum"], checksum.text != Self.checksum(of: members) { throw Self.notOurs(path) }
  }

  private static func notOurs(_ path: String) -> SmallFile.Failure {
    SmallFile.Failure(description: "\(path) is not what the server wrote; remove it")
  }

  /// The first 16 hexadecimal digits of the SHA-256 of the members as compact JSON.
  private static func checksum(of members: [JSONValue.Member]) -> String {
    hexadecimal(SHA256.hash(data: JSONValue.object(members).bytes).prefix(8))
  }

  init(
    steadyMicroseconds: UInt64, leastMicroseconds: UInt64? = nil, bootMicroseconds: UInt64, bootID: String,
    clockMicroseconds: UInt64
  ) {
    self.steadyMicroseconds = steadyMicroseconds
    self.leastMicroseconds = leastMicroseconds
    self.bootMicroseconds = bootMicroseconds
    self.bootID = bootID
    self.clockMicroseconds = clockMicroseconds
  }

  /// Later than the year 9999 is nobody's time.
  private static func number(_ value: JSONValue?) -> UInt64? {
    guard case .number(let digits)? = value, let number = UInt64(digits), number < 253_402_300_800_000_000 else {
      return nil
    }
    return number
  }

  func write(to path: String) throws(SmallFile.Failure) {
    let checksum = JSONValue.Member("checksum", .string(Self.checksum(of: members)))
    try SmallFile.write(JSONValue.object(members + [checksum]).bytes, to: path)
  }

  /// All but the checksum.
  private var members: [JSONValue.Member] {
    var members: [JSONValue.Member] = [
      .init("steadyMicroseconds", .integer(steadyMicroseconds)), .init("bootMicroseconds", .integer(bootMicroseconds)),
      .init("bootID", .string(bootID)), .init("clockMicroseconds", .integer(clockMicroseconds)),
    ]
    if let leastMicroseconds { members.append(.init("leastMicroseconds", .integer(leastMicroseconds))) }
    return members
  }
}

/// By how much a process' `CLOCK_BOOTTIME` is ahead of the machine's: in a time namespace, as a container may have one, it is
/// not the machine's, though the kernel's name for the start of the machine is. See time_namespaces(7).
struct BootOffset: Hashable {
  var microseconds: Int64

  func removed(from bootMicroseconds: UInt64) -> UInt64 {
    let time = Int64(clamping: bootMicroseconds).subtractingReportingOverflow(microseconds)
    return time.overflow ? bootMicroseconds : UInt64(clamping: time.partialValue)
  }

  /// - Parameter offsets: what `/proc/self/timens_offsets` says; lines of a clock's name, seconds and nanoseconds.
  init(offsets: String) {
    microseconds = 0
    for line in offsets.split(separator: "\n") {
      let words = line.split(separator: " ")
      guard words.count == 3, words[0] == "boottime", let seconds = Int64(words[1]), let nanoseconds = Int64(words[2])
      else { continue }
      let (whole, overflow) = seconds.multipliedReportingOverflow(by: 1_000_000)
      if !overflow { microseconds = whole.addingReportingOverflow(nanoseconds / 1_000).partialValue }
    }
  }

  /// Zero where the kernel has no time namespaces, and so no such file.
  static let ofThisProcess = BootOffset(
    offsets: String(decoding: (try? SmallFile.read("/proc/self/timens_offsets")) ?? [], as: UTF8.self))
}
