import Foundation
import Testing

@testable import RegisPay

@Suite("A start after crashes")
struct CarefulStartTests {
  private func start(_ folder: String, isAfterCrash: Bool = false) throws -> CarefulStart {
    if isAfterCrash { try Data("!".utf8).write(to: URL(fileURLWithPath: folder + "/crashed")) }
    var pace = CarefulStart.Pace()
    (pace.delay, pace.pause) = (.zero, .zero)
    return CarefulStart(folder, pace: pace, marksCrashes: false, logger: silent)
  }

  @Test("two crashes soon after the start make the next start a careful one; one does not")
  func careful() async throws {
    try await withTemporaryFolder { folder in
      let first = try start(folder)
      #expect(first.warnings.isEmpty)
      #expect(try start(folder, isAfterCrash: true).warnings.isEmpty)
      #expect(try start(folder, isAfterCrash: true).warnings.isEmpty == false)
      // Killed, it leaves no mark, and nothing changes.
      #expect(try start(folder).warnings.isEmpty == false)
    }
  }

  @Test("a crash after a good start does not count")
  func settled() async throws {
    try await withTemporaryFolder { folder in
      _ = try start(folder)
      _ = try start(folder, isAfterCrash: true)
      let good = try start(folder, isAfterCrash: true)
      good.markStable()
      #expect(good.warnings.isEmpty)
      #expect(try start(folder, isAfterCrash: true).warnings.isEmpty)
      #expect(try start(folder, isAfterCrash: true).warnings.isEmpty, "one of two came soon after the start")
      #expect(try start(folder, isAfterCrash: true).warnings.isEmpty == false)
    }
  }

  @Test("what was in flight at two careful starts' crashes is suspended once, and other work is done")
  func suspended() async throws {
    try await withTemporaryFolder { folder in
      for _ in 0..<2 { _ = try start(folder, isAfterCrash: true) }
      for _ in 0..<2 {
        let careful = try start(folder, isAfterCrash: true)
        // The crash comes within the work: what is on disk then is what the next start sees.
        let copy = await careful.perform("bad", isSuspect: true, suspended: nil) {
          FileManager.default.contents(atPath: folder + "/starts")
        }
        try #require(copy).write(to: URL(fileURLWithPath: folder + "/starts"))
      }
      let last = try start(folder, isAfterCrash: true)
      #expect(await last.perform("good", isSuspect: true, suspended: "suspended") { "done" } == "done")
      #expect(await last.perform("bad", isSuspect: false, suspended: "suspended") { "done" } == "done")
      let before = last.ticket
      for _ in 0..<2 {
        #expect(await last.perform("bad", isSuspect: true, suspended: "suspended") { "done" } == "suspended")
      }
      let meanwhile = last.ticket
      last.conclude("bad")
      for ticket in [before, meanwhile] {
        #expect(
          await last.perform("bad", isSuspect: true, ticket: ticket, suspended: "suspended") { "done" } == "suspended",
          "asked for before it was known that it is suspended")
      }
      #expect(await last.perform("bad", isSuspect: true, suspended: "suspended") { "done" } == "done")
      let later = last.ticket
      #expect(
        await last.perform("bad", isSuspect: true, ticket: later, suspended: "suspended") { "done" } == "done",
        "a person asked for it")
    }
  }

  @Test("a server that has started successfully continues, and stops on request")
  func server() async throws {
    try await TestServer.run({ $0.carefulPace.stableAfter = .milliseconds(1) }) { server in
      for _ in 0..<20 {
        #expect(try await server.get("/alive").status == 200)
        // The service group ends by itself soon after one of its services.
        try await Task.sleep(for: .milliseconds(10))
      }
    }
  }
}
