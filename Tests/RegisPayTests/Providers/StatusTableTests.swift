import Foundation
import Testing

@testable import RegisPay

@Suite("Every status, at every step")
struct StatusTableTests {
  private static let works: [PaymentWork] = [
    PaymentWork(.create), PaymentWork(.settle), PaymentWork(.cancel), PaymentWork(.notify), PaymentWork(refund: 1),
  ]
  /// Not carried out, whoever answers so: nothing else is.
  private static let notCarriedOut: Set = [400, 401, 402, 403, 404, 405, 410, 413, 414, 415, 422, 429]
  /// Of these, the ones that are about the payment: it ends with the first of them.
  private static let noes: Set = [400, 402, 410, 422]

  /// What is recorded after an answer; nil when the call is made again.
  private func command(_ status: Int, _ work: PaymentWork, tried: Bool, isExhausted: Bool) -> PaymentCommand? {
    switch Verdict(.success(HTTPAnswer(status: status, body: [])), from: "it") {
    case .accepted: .recordSettled
    case .outcome(let outcome):
      StepRule.command(for: outcome, of: work, mayHaveHappened: tried, isExhausted: isExhausted)
    }
  }

  private func isNo(_ command: PaymentCommand?) -> Bool {
    switch command {
    case .decline, .giveUp, .recordCancellationRefused: true
    default: false
    }
  }

  private func isUnknown(_ command: PaymentCommand?) -> Bool {
    if case .markUnknown = command { true } else { false }
  }

  @Test("only a closed list of statuses is a no to a first try, and all others are asked again", arguments: works)
  func firstTry(_ work: PaymentWork) {
    for status in 100...999 where !(200..<300).contains(status) {
      let command = command(status, work, tried: false, isExhausted: false)
      #expect(isNo(command) == Self.noes.contains(status), "\(status)")
      #expect(command == nil || Self.noes.contains(status), "\(status)")
    }
  }

  @Test("what is asked again to the end is a no by that list alone, and else unknown", arguments: works)
  func lastTry(_ work: PaymentWork) {
    for status in 100...999 where !(200..<300).contains(status) {
      let command = command(status, work, tried: false, isExhausted: true)
      #expect(isNo(command) == Self.notCarriedOut.contains(status), "\(status)")
      #expect(isUnknown(command) != Self.notCarriedOut.contains(status), "\(status)")
    }
  }

  @Test("once a try may have been carried out, no status but 402 is a no", arguments: works)
  func laterTry(_ work: PaymentWork) {
    for status in 100...999 {
      for isExhausted in [false, true] {
        #expect(isNo(command(status, work, tried: true, isExhausted: isExhausted)) == (status == 402), "\(status)")
      }
    }
  }

  @Test("the table in docs/PROVIDERS.md says what is done")
  func document() throws {
    let file = URL(fileURLWithPath: #filePath).deletingLastPathComponent()
      .appendingPathComponent("../../../docs/PROVIDERS.md")
    let text = try String(contentsOf: file, encoding: .utf8)
    let words: [StatusMeaning: String] = [
      .accepted: "done", .declined: "decline", .refused: "no", .credentials: "no, outage", .busy: "no, later",
      .misconfigured: "no, address", .inProgress: "may have happened", .serverError: "may have happened, outage",
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
