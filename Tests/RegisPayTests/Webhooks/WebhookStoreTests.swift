import Foundation
import GRDB
import Synchronization
import Testing

@testable import RegisPay

@Suite("The webhooks' file")
struct WebhookStoreTests {
  private func endpoint() throws -> WebhookEndpoint {
    WebhookEndpoint(
      id: WebhookEndpoint.newID(), url: try WebhookURL("https://example.org/a?b"), description: "ä\"'",
      events: [.settled, .failed],
      secret: .random(), previousSecret: .init(secret: .random(), untilMicroseconds: 5),
      disabled: .init(reason: "why", sinceMicroseconds: 6), createdMicroseconds: 7, updatedMicroseconds: 8)
  }

  @Test("gives back what was written")
  func roundTrip() async throws {
    try await withTemporaryFolder { folder in
      let journal = try WebhookJournal.open(folder + "/webhooks", health: Health(stores: []))
      let first = try endpoint()
      var second = try endpoint()
      (second.events, second.previousSecret, second.disabled) = (nil, nil, nil)
      let progress = WebhookProgress(
        checkpoint: 9, failuresInRow: 3, failingSinceMicroseconds: 10, lastSuccessMicroseconds: 11,
        heldUntilMicroseconds: 12
      )
      let event = WaitingEvent(offset: 4, attempts: 2, firstTryMicroseconds: 13, dueMicroseconds: 14)
      try await journal.write([
        .add(first, progress), .add(second, WebhookProgress(checkpoint: 0)), .wait(id: first.id, event),
      ])
      let again = try WebhookJournal.open(folder + "/webhooks", health: Health(stores: []))
      let stored = try again.endpoints()
      #expect(stored.map(\.endpoint) == [first, second])
      #expect(stored.map(\.progress) == [progress, WebhookProgress(checkpoint: 0)])
      #expect(stored.map(\.waiting) == [[event], []])
      await again.close()
      await journal.close()
    }
  }

  @Test("is nobody else's to read, with all that SQLite puts beside it")
  func rights() async throws {
    try await withTemporaryFolder { folder in
      let journal = try WebhookJournal.open(folder + "/webhooks", health: Health(stores: []))
      try await journal.write([.add(try endpoint(), WebhookProgress(checkpoint: 0))])
      let manager = FileManager.default
      #expect(try manager.attributesOfItem(atPath: folder + "/webhooks")[.posixPermissions] as? Int == 0o700)
      let names = try manager.contentsOfDirectory(atPath: folder + "/webhooks")
      #expect(names.count == 3)
      for name in names {
        let rights = try manager.attributesOfItem(atPath: folder + "/webhooks/" + name)[.posixPermissions] as? Int
        #expect(rights == 0o600, "\(name)")
      }
      await journal.close()
    }
  }

  @Test(
    "a file that can't be written is reported until it can, also without further writes, and the advice never says to move it away"
  )
  func healthEnds() async throws {
    try await withTemporaryFolder { folder in
      let isFull = Mutex(true)
      let health = Health(stores: [])
      let journal = try WebhookJournal.open(folder + "/webhooks", health: health) { _ in
        if isFull.withLock({ $0 }) { throw DatabaseError(resultCode: .SQLITE_FULL) }
      }
      await #expect(throws: WebhookStoreError.self) {
        try await journal.write([.add(try endpoint(), WebhookProgress(checkpoint: 0))])
      }
      let problem = try #require(health.problems.first)
      #expect(problem.contains("keep it") && !problem.contains("move it away"), "\(problem)")
      isFull.withLock { $0 = false }
      try await eventually("it is well by itself") { health.problems.isEmpty }
      #expect(try journal.endpoints().isEmpty)
      await journal.close()
    }
  }

  @Test("a secret that was replaced or removed is not found in its bytes")
  func overwritten() async throws {
    try await withTemporaryFolder { folder in
      let journal = try WebhookJournal.open(folder + "/webhooks", health: Health(stores: []))
      var stored = try endpoint()
      let removed = try endpoint()
      let old = stored.secret
      try await journal.write([
        .add(stored, WebhookProgress(checkpoint: 0)), .add(removed, WebhookProgress(checkpoint: 0)),
      ])
      stored.secret = .random()
      try await journal.write([.configure(stored), .remove(id: removed.id)])
      await journal.close()
      let bytes = try Data(contentsOf: URL(fileURLWithPath: folder + "/webhooks/webhooks.sqlite"))
      #expect(bytes.range(of: Data(stored.secret.bytes)) != nil)
      for gone in [old, removed.secret] { #expect(bytes.range(of: Data(gone.bytes)) == nil) }
    }
  }

  @Test("a file of an earlier program gets what it lacks, and loses nothing")
  func older() async throws {
    try await withTemporaryFolder { folder in
      let journal = try WebhookJournal.open(folder + "/webhooks", health: Health(stores: []))
      let id = try endpoint().id
      var delivery = WebhookDelivery(
        event: "msg_1", type: "payment.settled", offset: 3, attempt: 1, startMicroseconds: 5, durationMicroseconds: 6,
        status: 200, outcome: .delivered)
      try await journal.write([.delivery(id: id, delivery)])
      await journal.close()
      let queue = try DatabaseQueue(path: folder + "/webhooks/webhooks.sqlite")
      try await queue.write {
        try $0.execute(sql: "DROP INDEX delivery_event; ALTER TABLE delivery DROP COLUMN response")
      }
      try queue.close()
      for _ in 0..<2 {
        let again = try WebhookJournal.open(folder + "/webhooks", health: Health(stores: []))
        delivery.response = "well"
        try await again.write([.delivery(id: id, delivery)])
        let found = try await again.deliveries(of: id, before: .max, limit: 10)
        #expect(found.last?.response == nil && found.first?.response == "well")
        #expect(try await again.delivery(found[0].number, of: id)?.response == "well")
        #expect(try await again.delivery(found[0].number, of: "other") == nil)
        await again.close()
      }
    }
  }

  @Test("of another version, or damaged, is refused with its path, and left as it is")
  func refused() async throws {
    try await withTemporaryFolder { folder in
      let path = folder + "/webhooks/webhooks.sqlite"
      let journal = try WebhookJournal.open(folder + "/webhooks", health: Health(stores: []))
      await journal.close()
      let queue = try DatabaseQueue(path: path)
      try await queue.write { try $0.execute(sql: "PRAGMA user_version = 99") }
      try queue.close()
      let error = #expect(throws: WebhookStoreError.self) {
        try WebhookJournal.open(folder + "/webhooks", health: Health(stores: []))
      }
      #expect(error?.description.contains(path) == true && error?.reason.contains("99") == true)
      let garbage = Data(repeating: 7, count: 8_192)
      try garbage.write(to: URL(fileURLWithPath: path))
      #expect(throws: WebhookStoreError.self) {
        try WebhookJournal.open(folder + "/webhooks", health: Health(stores: []))
      }
      #expect(try Data(contentsOf: URL(fileURLWithPath: path)) == garbage)
    }
  }
}
