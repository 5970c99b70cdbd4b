import CLinux
import Foundation
import LogStore

/// Whether something keeps the clock right, and whether it is later than what is known to have happened.
struct ClockCheck: Check {
  let name = CheckName.clock
  let directory: String

  /// A file's time may come from a machine with a clock of its own.
  private static let fileTolerance: UInt64 = 24 * 60 * 60 * 1_000_000
  private static let eventTolerance = ClockWarnings.tolerance.microseconds

  struct Facts: Sendable {
    /// Microseconds since 1970, as all times here.
    var now: UInt64
    /// Of the newest event of a log.
    var events: [(log: String, time: UInt64)] = []
    /// Logs that are there, and whose newest event can't be read now.
    var unknown: [String] = []
    /// When the program's file was made; nil if that is not known.
    var program: UInt64?
    /// 0 if something keeps the clock right, `ETIME` if nothing does; otherwise why the kernel does not tell.
    var kept: Int32
    /// The greatest error that the kernel knows of, in microseconds.
    var error: UInt64 = 0
  }

  func run() -> [Finding] {
    var facts = Facts(now: 0, kept: 0)
    for log in ["payments", "simulator"] where LostLog.hasLog(directory + "/" + log) {
      do throws(LogStoreError) {
        facts.events.append((log, try LogInspection.look(at: directory + "/" + log).lastTimestampMicroseconds))
      } catch {
        // Why is a finding of ``StoreCheck``.
        facts.unknown.append(log)
      }
    }
    facts.kept = clinux_clock_is_kept(&facts.error)
    facts.program = fileStatus(at: "/proc/self/exe").map { UInt64(max(0, $0.st_mtim.tv_sec)) * 1_000_000 }
    facts.now = Clock.microseconds()
    return [Self.judge(facts)]
  }

  static func judge(_ facts: Facts) -> Finding {
    let now = shown(facts.now)
    let setIt = "Set the clock, and let an NTP client keep it right (timedatectl set-ntp true, chrony)."
    if let newest = facts.events.max(by: { $0.time < $1.time }), newest.time > facts.now + eventTolerance {
      return .problem(
        .clock,
        "it is \(now), and the newest event of the \(newest.log) log is of \(shown(newest.time))",
        advice: setIt
          + " If the clock is right now, it was ahead before: new events get that time until the clock reaches it"
          + " (docs/OPERATIONS.md, The clock was wrong or is set).")
    }
    if let program = facts.program, program > facts.now + fileTolerance {
      return .problem(
        .clock, "it is \(now), and this program's file is of \(shown(program)), which is later",
        advice: setIt)
    }
    guard facts.unknown.isEmpty else {
      return .notChecked(
        .clock, "it is \(now); the newest event of \(facts.unknown.joined(separator: " and ")) can't be read to compare"
      )
    }
    switch facts.kept {
    case 0:
      return .ok(
        .clock,
        "it is \(now), and the clock is kept right to \(Shown.milliseconds(.microseconds(Int64(clamping: facts.error))))"
      )
    case ETIME:
      return .warning(
        .clock, "it is \(now), and the kernel knows of nothing that keeps the clock right",
        advice:
          "Run an NTP client (timedatectl set-ntp true, chrony). In a virtual machine or a container the host may keep the"
          + " clock right without the kernel's knowledge: then compare it yourself.")
    case let code:
      return .notChecked(.clock, "it is \(now); the kernel does not say whether that is right: \(Shown.error(code))")
    }
  }
  /// `2026-11-29T20:16:39Z`.
  private static func shown(_ microseconds: UInt64) -> String {
    Date(timeIntervalSince1970: Double(microseconds / 1_000_000)).formatted(.iso8601)
  }
}
