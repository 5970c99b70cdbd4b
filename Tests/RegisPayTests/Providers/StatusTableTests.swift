import Foundation
import Testing

@testable import RegisPay

@Suite("Every status, at every step")
struct StatusTableTests {
  private static let works: [PaymentWork] = [
    PaymentWork(.create), PaymentWork(.settle), PaymentWork(.cancel), PaymentWork(.notify), PaymentWork(refund: 1),
  ]
  /// The statuses that prove the call was not carried out.
  private static let notCarriedOut: Set = [400, 401, 402, 403, 404, 405, 410, 413, 414, 415, 422, 429]
  /// Of these, the statuses about the payment: the first of them ends the step.
  private static let refusals: Set = [400, 402, 410, 422]

  /// The command after a response; nil when the call is repeated.
  private func command(_ status: Int, _ work: PaymentWork, tried: Bool, isExhausted: Bool) -> PaymentCommand? {
    switch Verdict(.success(ClientResponse(status: status, body: [])), from: "it") {
    case .accepted: .recordSettled
    case .outcome(let outcome):
      StepRule.command(for: outcome, of: work, mayHaveHappened: tried, isExhausted: isExhausted)
    }
  }

  private func isRefusal(_ command: PaymentCommand?) -> Bool {
    switch command {
    case .decline, .park, .recordCancellationRefused: true
    default: false
    }
  }

  private func isUnknown(_ command: PaymentCommand?) -> Bool {
    if case .markUnknown = command { true } else { false }
  }

  @Test("only a closed list of statuses refuses a first try, and all others are retried", arguments: works)
  func firstTry(_ work: PaymentWork) {
    for status in 100...999 where !(200..<300).contains(status) {
      let command = command(status, work, tried: false, isExhausted: false)
      #expect(isRefusal(command) == Self.refusals.contains(status), "\(status)")
      #expect(command == nil || Self.refusals.contains(status), "\(status)")
    }
  }

  @Test("exhausted tries are refused by that list alone, and otherwise unknown", arguments: works)
  func lastTry(_ work: PaymentWork) {
    for status in 100...999 where !(200..<300).contains(status) {
      let command = command(status, work, tried: false, isExhausted: true)
      #expect(isRefusal(command) == Self.notCarriedOut.contains(status), "\(status)")
      #expect(isUnknown(command) != Self.notCarriedOut.contains(status), "\(status)")
    }
  }

  @Test("once a try may have been carried out, only status 402 refuses", arguments: works)
  func laterTry(_ work: PaymentWork) {
    for status in 100...999 {
      for isExhausted in [false, true] {
        #expect(isRefusal(command(status, work, tried: true, isExhausted: isExhausted)) == (status == 402), "\(status)")
      }
    }
  }

  @Test("the table in docs/PROVIDERS.md matches the code")
  func document() throws {
    let file = URL(fileURLWithPath: #filePath).deletingLastPathComponent()
      .appendingPathComponent("../../../docs/PROVIDERS.md")
    let text = try String(contentsOf: file, encoding: .utf8)
    let words: [StatusMeaning: String] = [
      .accepted: "done", .declined: "declined", .refused: "refused", .credentials: "refused, outage",
      .busy: "refused, later",
      .misconfigured: "refused, address", .inProgress: "may have happened", .serverError: "may have happened, outage",
      .unclear: "may have happened, soon unknown", .meaningless: "may have happened, outage",
    ]
    var said: [Int: String] = [:]
    for line in text.split(separator: "\n") where line.hasPrefix("| ") {
      let cells = line.split(separator: "|").map { $0.trimmingCharacters(in: .whitespaces) }
      guard cells.count == 3, let first = cells[0].first, first.isNumber else { continue }
      for part in cells[0].split(separator: ",") {
        let ends = part.split(separator: "…").compactMap { Int($0.trimmingCharacters(in: .whitespaces)) }
        let (low, high) = (try #require(ends.first), try #require(ends.last))
        for status in low...high {
          #expect(said[status] == nil, "\(status) is said twice")
          said[status] = cells[1]
        }
      }
    }
    for status in 100...999 { #expect(said[status] == words[StatusMeaning(status)], "\(status)") }
  }
}
