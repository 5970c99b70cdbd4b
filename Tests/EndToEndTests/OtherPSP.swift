import AsyncHTTPClient
import Foundation
import Testing

/// What goes wrong with one step of one payment; the amount identifies the payment.
struct PSPCase: Sendable, Hashable, CustomStringConvertible {
  enum Fault: String, Sendable, CaseIterable { case late, before, after, forgets, done, undone }

  static let statuses = [409, 423, 425, 400, 402, 404, 410, 422, 500, 200]
  /// First responses that leave open whether the call was carried out.
  static let unclearStatuses = [406, 412, 424, 444, 460, 499, 302, 600]

  /// In minor units.
  var amount: Int
  var step: String
  var fault: Fault
  /// The first call's status, for the faults `done` and `undone`.
  var first: Int?
  /// The status of the repeats.
  var status: Int
  /// The server is killed between the first call and the repeats.
  var isRestarted: Bool
  /// A person asks to cancel as soon as the PSP was asked to create.
  var isCancelled = false

  var description: String {
    "\(step)\(isCancelled ? " and cancel" : ""), \(fault.rawValue) \(first ?? 0), \(status)\(isRestarted ? ", killed between" : "")"
  }

  private static let steps = [
    ("create", false), ("create", true), ("settle", false), ("cancel", false), ("refund", false), ("notify", false),
  ]

  /// All combinations, each with an amount of its own.
  static func all(_ faults: [Fault]) -> [PSPCase] {
    combinations(faults.flatMap { fault in statuses.map { (fault, nil, $0) } })
  }

  /// First responses that leave open whether the call was carried out, and repeats that get the same response, are refused, or
  /// get the call's outcome.
  static var unclear: [PSPCase] {
    combinations(
      unclearStatuses.flatMap { first in
        let again: [(Fault, Int?, Int)] = (400..<500).contains(first) ? [(.done, first, first)] : []
        return again + [(.done, first, 422), (.done, first, 200), (.undone, first, 200)]
      })
  }

  private static func combinations(_ kinds: [(fault: Fault, first: Int?, status: Int)]) -> [PSPCase] {
    var cases: [PSPCase] = []
    for (step, isCancelled) in steps {
      for kind in kinds {
        for isRestarted in [false, true] {
          cases.append(
            PSPCase(
              amount: 1_001 + cases.count, step: step, fault: kind.fault, first: kind.first, status: kind.status,
              isRestarted: isRestarted, isCancelled: isCancelled))
        }
      }
    }
    return cases
  }

  /// The payment's final status before a person resolves anything; nil if several are right.
  var expected: String? {
    guard !isCancelled, fault != .forgets else { return nil }
    switch status {
    case 200, 409, 423, 425, 500: return ["cancel": "Cancelled"][step] ?? "Completed"
    // A part that goes back leaves a payment completed. A cancellation that is declined leads to the settlement; a refund that is declined leaves the rest as it was.
    case 402: return ["create": "Declined", "settle": "Declined", "notify": "Failed"][step] ?? "Completed"
    default: return "OutcomeUnknown"
    }
  }
}

/// `Support/other_psp.py`, running.
struct OtherPSP: Sendable {
  struct Charge: Decodable, Sendable {
    var amount: Int
    var reference: String
    var state: String
    var refunds: [Int]
  }

  struct Ledger: Decodable, Sendable {
    var charges: [Charge]
    var notified: [String: Int]
    /// Of the steps that the cases are about, by amount.
    var calls: [String: Int]

    func charges(of amount: Int) -> [Charge] { charges.filter { $0.amount == amount } }

    /// Whether the step was carried out, as a person finds it who looks.
    func hasHappened(_ step: String, _ amount: Int) -> Bool {
      switch step {
      case "create": !charges(of: amount).isEmpty
      case "settle": charges(of: amount).contains { $0.state == "settled" }
      case "cancel": charges(of: amount).contains { $0.state == "cancelled" }
      case "refund": charges(of: amount).contains { !$0.refunds.isEmpty }
      default: notified["\(amount)"] != nil
      }
    }
  }

  let process: RegisPayProcess
  let url: String

  /// - Parameter forgetSeconds: when a PSP that forgets keys has forgotten one, from its first use.
  static func start(_ cases: [PSPCase], forgetSeconds: Double, in folder: String) async throws -> OtherPSP {
    let table = Dictionary(
      uniqueKeysWithValues: cases.map { item in
        (
          "\(item.amount)",
          [
            "step": item.step, "fault": item.fault.rawValue, "first": item.first ?? 0, "status": item.status,
            "restart": item.isRestarted,
            "forget": forgetSeconds,
          ] as [String: Any]
        )
      })
    try JSONSerialization.data(withJSONObject: table).write(to: URL(fileURLWithPath: folder + "/cases.json"))
    let script = URL(fileURLWithPath: #filePath).deletingLastPathComponent()
      .appendingPathComponent("Support/other_psp.py")
    let process = try RegisPayProcess(
      program: "python3", ["-B", script.path, folder + "/cases.json"], folder: folder)
    guard let port = try await process.nextLine() else {
      throw RegisPayProcess.Failure(description: "no port; on stderr: \(process.errorText)")
    }
    return OtherPSP(process: process, url: "http://127.0.0.1:\(port)")
  }

  private var server: RunningServer { RunningServer(process: process, url: url) }

  func ledger() async throws -> Ledger {
    try JSONDecoder().decode(Ledger.self, from: try await server.get("/ledger").body)
  }

  /// From now on repeats of the cases with a restart get responses.
  func open() async throws { _ = try await server.post("/open", "{}") }
}
