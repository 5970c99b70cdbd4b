import Glibc

/// What else the machine did during a measurement: the time of other processes, and the time that the machine below this
/// one took away (steal). Both as a share of the time of all cores.
struct Busyness: Sendable {
  var othersPercent: Double
  var stealPercent: Double
  /// A shorter time says nothing.
  var isKnown: Bool

  /// Shares above which a number is doubted. Some other process always wakes from time to time.
  static let othersLimitPercent = 5.0
  static let stealLimitPercent = 2.0

  var isBusy: Bool { isKnown && (othersPercent > Self.othersLimitPercent || stealPercent > Self.stealLimitPercent) }

  var text: String { "other processes \(fixed(othersPercent, 1)) %, steal \(fixed(stealPercent, 1)) % of all cores" }
}

/// Reads the counters of /proc before and after. The kernel's own threads don't count as others: here they mostly do the
/// writing that was requested.
struct BusynessWatch: Sendable {
  private var all = 0
  private var busy = 0
  private var steal = 0
  private var own = 0
  private var kernel = 0

  init() {
    let counters = (contents("/proc/stat") ?? "").split(separator: "\n").first?.split(separator: " ").dropFirst()
    let ticks = (counters ?? []).prefix(8).map { Int($0) ?? 0 }
    guard ticks.count == 8 else { return }
    all = ticks.reduce(0, +)
    busy = ticks[0] + ticks[1] + ticks[2]
    steal = ticks[7]
    var usage = rusage()
    // This process, and the children that it has waited for.
    for who in [0, -1] as [Int32] {
      getrusage(who, &usage)
      own += Self.ticks(usage.ru_utime) + Self.ticks(usage.ru_stime)
    }
    let pid = Int(getpid())
    for name in names(in: "/proc") {
      guard let number = Int(name), number != pid, let process = Self.process(number) else { continue }
      if process.isKernel { kernel += process.ticks } else if process.parent == pid { own += process.ticks }
    }
  }

  /// The busyness since the start.
  func since() -> Busyness {
    let now = BusynessWatch()
    let passed = now.all - all
    // A hundred ticks are a second of one core.
    guard passed >= 50 else { return Busyness(othersPercent: 0, stealPercent: 0, isKnown: false) }
    let others = max(0, (now.busy - busy) - (now.own - own) - (now.kernel - kernel))
    return Busyness(
      othersPercent: 100 * Double(others) / Double(passed),
      stealPercent: 100 * Double(now.steal - steal) / Double(passed), isKnown: true)
  }

  private static let ticksPerSecond = max(1, sysconf(Int32(_SC_CLK_TCK)))

  private static func ticks(_ time: timeval) -> Int {
    Int(time.tv_sec) * ticksPerSecond + Int(time.tv_usec) * ticksPerSecond / 1_000_000
  }

  /// A process's parent, its time, and whether it is a thread of the kernel; proc(5), `stat`.
  private static func process(_ pid: Int) -> (parent: Int, ticks: Int, isKernel: Bool)? {
    // The name may hold any bytes, but the last closing bracket follows it.
    guard let text = contents("/proc/\(pid)/stat"), let end = text.lastIndex(of: ")") else { return nil }
    let fields = text[text.index(after: end)...].split(separator: " ")
    guard fields.count > 12, let parent = Int(fields[1]), let flags = UInt64(fields[6]), let user = Int(fields[11]),
      let system = Int(fields[12])
    else { return nil }
    let kernelThreadFlag: UInt64 = 0x0020_0000
    return (parent, user + system, flags & kernelThreadFlag != 0)
  }
}

/// How loaded the machine was before anything was measured.
struct LoadBefore: Sendable {
  /// Running and waiting tasks over the last minute; /proc/loadavg.
  var loadAverage: Double
  /// Share of the last ten seconds in which some task waited for a core; nil where the kernel doesn't tell.
  var pressurePercent: Double?
  /// Over the third of a second before the first workload.
  var busyness: Busyness

  static func look() async throws -> LoadBefore {
    let watch = BusynessWatch()
    try await Task.sleep(for: .milliseconds(350))
    let average = (contents("/proc/loadavg") ?? "").split(separator: " ").first.flatMap { Double($0) }
    let pressure = (contents("/proc/pressure/cpu") ?? "").split(separator: " ")
      .first { $0.hasPrefix("avg10=") }.flatMap { Double($0.dropFirst(6)) }
    return LoadBefore(loadAverage: average ?? 0, pressurePercent: pressure, busyness: watch.since())
  }

  var text: String {
    "load average \(fixed(loadAverage, 2))"
      + (pressurePercent.map { ", cores waited for \(fixed($0, 1)) % of the last ten seconds" } ?? "")
      + ", \(busyness.text)"
  }
}
