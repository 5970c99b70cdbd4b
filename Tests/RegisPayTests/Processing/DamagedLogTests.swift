import Foundation
import LogStore
import Synchronization
import Testing

@testable import RegisPay

/// Readers of a log that is damaged, or has events of a newer program, continue and report it.
@Suite("A log that can't be read completely")
struct DamagedLogTests {
  private static let money = Money(minorUnits: 500, currency: Currency.supported[0])

  private func open(_ folder: String) throws -> LogStore {
    var options = LogStore.Options()
    options.segmentBytes = 64 << 10
    options.servesDamaged = true
    return try LogStore.open(folder + "/log", options: options)
  }

  /// Appends a payment's events.
  private func append(_ events: [PaymentEvent], of id: PaymentID, from version: UInt64, to store: LogStore) async throws
  {
    for (index, event) in events.enumerated() {
      let new = NewEvent(stream: id.stream, type: event.type, payload: event.payload)
      _ = try await store.append(Append(new, expecting: .version(version + UInt64(index) - 1)))
    }
  }

  /// Creates payments over several segments. Returns them in order.
  private func fill(_ store: LogStore, _ count: Int) async throws -> [PaymentID] {
    let log = PaymentLog(store)
    var ids: [PaymentID] = []
    for _ in 0..<count {
      let id = try await log.initiate(Self.money)
      try await append([.created(reference: "r")], of: id, from: 2, to: store)
      ids.append(id)
    }
    try await store.waitUntilIndexed()
    return ids
  }

  /// Flips a bit in the data of the payment's first event.
  private func damage(_ id: PaymentID, in folder: String) throws {
    let path = folder + "/log/00000000000000000000.log"
    var bytes = try Data(contentsOf: URL(fileURLWithPath: path))
    let found = try #require(bytes.range(of: Data("\"paymentId\":\"\(id)\"".utf8)))
    bytes[found.upperBound + 4] ^= 1
    try bytes.write(to: URL(fileURLWithPath: path))
  }

  @Test("pages of the log say which of their offsets they pass over, and a damaged stream is an error without a path")
  func pages() async throws {
    try await withTemporaryFolder { folder in
      try FileManager.default.createDirectory(
        atPath: folder + "/data", withIntermediateDirectories: true, attributes: [.posixPermissions: 0o700])
      var options = LogStore.Options()
      options.segmentBytes = 64 << 10
      let store = try LogStore.open(folder + "/data/payments", options: options)
      let ids = try await fill(store, 400)
      try await store.close()
      let path = folder + "/data/payments/00000000000000000000.log"
      var bytes = try Data(contentsOf: URL(fileURLWithPath: path))
      let found = try #require(bytes.range(of: Data("\"paymentId\":\"\(ids[5])\"".utf8)))
      bytes[found.upperBound + 4] ^= 1
      try bytes.write(to: URL(fileURLWithPath: path))
      try await TestServer.run({ ($0.directory, $0.switchedOff) = (folder + "/data", [.processing]) }) { server in
        var (next, events, missing): (UInt64?, Set<UInt64>, Set<UInt64>) = (0, [], [])
        while let from = next, from < 100 {
          let page = try await server.get("/api/v1/log/events?limit=4&from=\(from)").json()
          guard case .array(let found)? = page["events"], case .array(let ranges)? = page["missing"] else { break }
          events.formUnion(found.compactMap { $0["offset"]?.unsigned })
          for range in ranges {
            let (offset, count) = (try #require(range["offset"]?.unsigned), try #require(range["events"]?.unsigned))
            #expect(offset >= from)
            missing.formUnion(offset..<offset + count)
          }
          next = page["next"]?.unsigned
        }
        #expect(missing.contains(10) && events.isDisjoint(with: missing))
        #expect(events.union(missing).isSuperset(of: 0..<100), "each offset is shown or named")
        #expect(try await server.get("/api/v1/log/events/10").status == 404)
        let stream = try await server.get("/api/v1/log/events?stream=pay:\(ids[5])")
        #expect(stream.status == 500 && !stream.text.contains(folder), "\(stream.text)")
      }
    }
  }

  @Test("an action that can't be recorded has a log line of its own kind")
  func unrecorded() async throws {
    try await withStore { store in
      let log = PaymentLog(store) { _ async throws(LogStoreError) in throw .closed }
      let collector = LineCollector()
      let actions = ActionLog(log: log, logger: collector.logger)
      await actions.record(.keyRevoked, "abc", by: KeyHolder(keyID: "k1", name: "anna"))
      await actions.record(.errorsToggled, nil, by: nil)
      let lines = collector.text.split(separator: "\n")
      #expect(lines.count == 2 && lines[0].hasPrefix("a person's action can't be recorded: key-revoked"))
      #expect(lines[0].contains("abc") && lines[0].contains("anna") && lines[1].contains(": errors-toggled"))
    }
  }

  @Test(
    "a restoration that can't be read makes everything before it doubtful, and keeps no server from starting",
    arguments: [false, true])
  func restoration(isDamaged: Bool) async throws {
    try await withTemporaryFolder { folder in
      var store = try open(folder)
      var log = PaymentLog(store)
      let money = Money(minorUnits: 100, currency: Currency.supported[0])
      let old = try await log.initiate(money)
      for command in [PaymentCommand.recordCreated(reference: "r"), .recordSettled] {
        _ = try await log.request(command, of: old)
      }
      let unreadable = NewEvent(
        stream: LogRestoration.stream, type: LogRestoration.eventType, payload: Array("{\"later\":true}".utf8))
      if isDamaged {
        #expect(try await log.noteRestorations(isRestored: true) == nil)
      } else {
        _ = try await log.append(Append([unreadable]))
      }
      // In finished segments damage is passed over.
      _ = try await fill(store, 400)
      try await store.close()
      if isDamaged {
        let path = folder + "/log/00000000000000000000.log"
        var bytes = try Data(contentsOf: URL(fileURLWithPath: path))
        let found = try #require(bytes.range(of: Data("lastMicroseconds".utf8)))
        bytes[found.lowerBound] ^= 1
        try bytes.write(to: URL(fileURLWithPath: path))
      }
      store = try open(folder)
      log = PaymentLog(store)
      #expect(try await log.noteRestorations(isRestored: false) == nil)
      _ = try await log.request(.refund(nil), of: old)
      let trace = log.trace(
        of: PaymentWork(refund: 1), in: try #require(try log.load(old)), keyLifetime: .seconds(86_400))
      #expect(trace.mayHaveHappened, "a lost refund may have this key")
      #expect(log.age(of: trace) > .seconds(86_400), "nobody knows how old that is")
      try await store.close()
    }
  }

  @Test("damage that a look-up met, and that a recheck finds lost, stays reported")
  func unreadableThenLost() async throws {
    try await withTemporaryFolder { folder in
      let store = try open(folder)
      let ids = try await fill(store, 400)
      let damage = DamageStatus(store.reader)
      let path = folder + "/log/00000000000000000000.log"
      damage.note(.unreadable(Damage(file: path, position: 4096, reason: "the disk can't read it")))
      #expect(damage.warnings.count == 1 && damage.warnings[0].contains("requests that need it are refused"))
      try self.damage(ids[10], in: folder)
      damage.recheck()
      let warnings = damage.warnings
      #expect(warnings.first?.contains("offsets 20..<21") == true, "\(warnings)")
      #expect(!warnings.contains { $0.contains("requests that need it are refused") }, "\(warnings)")
      try await store.close()
    }
  }

  private var options: StepConsumer.Options {
    var options = StepConsumer.Options()
    options.cursorInterval = .milliseconds(20)
    return options
  }

  private func consuming(
    _ log: PaymentLog, _ provider: FakeProvider, _ work: () async throws -> Void
  ) async throws {
    let consumer = StepConsumer(
      .settle, log: log, delays: DelaysOfLog(log: log), provider: provider,
      breaker: Breaker(name: "fake", options: .init()), retryStatus: RetryStatus(), health: Health(stores: []),
      options: options, logger: silent)
    let run = Task { try await consumer.run() }
    let result: Result<Void, any Error>
    do {
      result = .success(try await work())
    } catch {
      result = .failure(error)
    }
    consumer.stop()
    _ = try await endsByItself(run)
    try result.get()
  }

  /// Makes a log of 300 payments and closes it.
  ///
  /// - Returns: the payments, and the first segment's file with its undamaged content; the first 21 have events there.
  private func makeLog(in folder: String) async throws -> (ids: [PaymentID], path: String, sound: Data) {
    let store = try open(folder)
    let ids = try await fill(store, 300)
    try await store.close()
    let path = folder + "/log/00000000000000000000.log"
    return (ids, path, try Data(contentsOf: URL(fileURLWithPath: path)))
  }

  /// Flips a bit in the payment's second event, which requests the step.
  private func damageRequest(of id: PaymentID, _ sound: Data, at path: String) throws {
    var bytes = sound
    let first = try #require(bytes.range(of: Data("\"paymentId\":\"\(id)\"".utf8)))
    let second = try #require(
      bytes.range(of: Data(PaymentEvent.TypeName.created.rawValue.utf8), in: first.upperBound..<bytes.count))
    bytes[second.lowerBound + 3] ^= 1
    try bytes.write(to: URL(fileURLWithPath: path))
  }

  /// False too while the payment can't be read yet.
  private func isSettled(_ id: PaymentID, in log: PaymentLog) -> Bool {
    (try? log.load(id))?.payment.status == .settled
  }

  private func atEnd(_ log: PaymentLog) throws -> Bool {
    try log.reader.cursor("payment-settle") == log.reader.endOffset
  }

  @Test(
    "a step of a payment with a damaged event is skipped, the checkpoint moves on, and the step is resumed when the file is restored"
  )
  func skipsAndResumes() async throws {
    try await withTemporaryFolder { folder in
      let (ids, path, sound) = try await makeLog(in: folder)
      let hit = ids[20]
      try damage(hit, in: folder)
      var store = try open(folder)
      var log = PaymentLog(store)
      let provider = FakeProvider { _, _ in .done(.recordSettled) }
      try await consuming(log, provider) {
        try await eventually("the cursor is at the end") { try atEnd(log) }
        try await eventually("all others are settled") {
          try ids.allSatisfy { id in try id == hit || log.load(id)?.payment.status == .settled }
        }
      }
      #expect(provider.calls[hit] == nil)
      #expect(log.damage.summary.skipped.map(\.id) == [hit])
      #expect(log.damage.concern(hit) == .incomplete)
      #expect(log.damage.summary.ranges.map(\.offsets.count) == [1])
      #expect(log.damage.warnings.first?.contains("00000000000000000000.log @") == true)
      #expect(throws: PaymentLogError.self) { try log.load(hit) }
      await #expect(throws: PaymentLogError.self) { try await log.request(.cancel, of: hit) }
      try await store.close()

      // Still damaged: the log says that the step was skipped.
      store = try open(folder)
      log = PaymentLog(store)
      var skipped = SkippedWork(log: log, logger: silent)
      skipped.interval = .milliseconds(10)
      let waiting = Task { [skipped] in await skipped.run() }
      try await eventually("it is listed") { log.damage.summary.skipped.map(\.id) == [hit] }
      waiting.cancel()
      await waiting.value
      try await store.close()

      try sound.write(to: URL(fileURLWithPath: path))
      store = try open(folder)
      log = PaymentLog(store)
      skipped = SkippedWork(log: log, logger: silent)
      let resuming = Task { [skipped] in await skipped.run() }
      try await consuming(log, provider) {
        try await eventually("it is resumed") { try log.load(hit)?.payment.status == .settled }
      }
      resuming.cancel()
      await resuming.value
      #expect(provider.calls[hit] == 1)
      #expect(log.damage.summary.skipped.isEmpty)
      try await store.close()
    }
  }

  @Test(
    "an unreadable event that requests a step is passed over, and its step is resumed when the file is restored",
    arguments: [true, false])
  func takesUp(isWhileRunning: Bool) async throws {
    try await withTemporaryFolder { folder in
      let (ids, path, sound) = try await makeLog(in: folder)
      let hit = ids[20]
      try damageRequest(of: hit, sound, at: path)
      var store = try open(folder)
      var log = PaymentLog(store)
      let provider = FakeProvider { _, _ in .done(.recordSettled) }
      var skipped = SkippedWork(log: log, logger: silent)
      skipped.interval = .milliseconds(10)
      var resuming = Task { [skipped] in await skipped.run() }
      try await consuming(log, provider) { [log] in
        try await eventually("the cursor is at the end") { try atEnd(log) }
        try await eventually("it is known") { log.damage.summary.ranges.map(\.offsets.count) == [1] }
        #expect(try log.reader.stream(SkippedWork.stream).map(\.type) == ["PaymentStepsPassed"])
        if isWhileRunning {
          // Written under another name first, as a copy from a backup is restored.
          try sound.write(to: URL(fileURLWithPath: path), options: .atomic)
          try await eventually("it is resumed") { isSettled(hit, in: log) }
          try await eventually("no damage is reported any more") {
            log.damage.summary.ranges.isEmpty && log.damage.concern(hit) == nil
          }
        }
      }
      if !isWhileRunning {
        resuming.cancel()
        await resuming.value
        try await store.close()
        try sound.write(to: URL(fileURLWithPath: path))
        store = try open(folder)
        log = PaymentLog(store)
        skipped = SkippedWork(log: log, logger: silent)
        resuming = Task { [skipped] in await skipped.run() }
        try await consuming(log, provider) { [log] in
          try await eventually("it is resumed") { isSettled(hit, in: log) }
        }
      }
      try await eventually("it is recorded") {
        try log.reader.stream(SkippedWork.stream).last?.type == "PaymentStepsTaken"
      }
      resuming.cancel()
      await resuming.value
      #expect(provider.calls[hit] == 1)
      #expect(log.damage.warnings.isEmpty)
      try await store.close()
    }
  }

  @Test("the checkpoint waits before what was passed over until that is recorded, and recording is tried again")
  func recordedBeforeTheCheckpoint() async throws {
    try await withTemporaryFolder { folder in
      let (ids, path, sound) = try await makeLog(in: folder)
      let hit = ids[20]
      try damageRequest(of: hit, sound, at: path)
      let store = try open(folder)
      let refusals = Mutex<(isOver: Bool, count: Int)>((false, 0))
      let log = PaymentLog(store) { append async throws(LogStoreError) in
        let isRefused = refusals.withLock { state in
          guard !state.isOver, append.events.contains(where: { $0.type == "PaymentStepsPassed" }) else { return false }
          state.count += 1
          return true
        }
        if isRefused { throw .invalidArgument("test") }
        return try await store.append(append)
      }
      try await consuming(log, FakeProvider { _, _ in .done(.recordSettled) }) {
        try await eventually("all others are settled") { ids.allSatisfy { $0 == hit || isSettled($0, in: log) } }
        // The payment's second event has offset 41.
        try await eventually("the cursor is there") { try log.reader.cursor("payment-settle") == 41 }
        let count = refusals.withLock { $0.count }
        try await eventually("it is tried again") { refusals.withLock { $0.count } > count + 2 }
        #expect(try log.reader.cursor("payment-settle") == 41)
        refusals.withLock { $0.isOver = true }
        try await eventually("the cursor is at the end") { try atEnd(log) }
      }
      #expect(try log.reader.stream(SkippedWork.stream).map(\.type) == ["PaymentStepsPassed"])
      try await store.close()
    }
  }

  @Test("a payment with an event of a newer program is shown, refuses commands, and its steps wait for that program")
  func newerEvent() async throws {
    try await withStore { store in
      let log = PaymentLog(store)
      let id = try await log.initiate(Self.money)
      try await append([.created(reference: "r")], of: id, from: 2, to: store)
      _ = try await store.append(Append(NewEvent(stream: id.stream, type: "PaymentCharmed", payload: bytes("{}"))))
      let other = try await log.initiate(Self.money)
      try await append([.created(reference: "r")], of: other, from: 2, to: store)
      let loaded = try #require(try log.load(id))
      #expect(loaded.payment.status == .created)
      #expect(loaded.newerEvent?.version == 3 && loaded.newerEvent?.type == "PaymentCharmed")
      for command in [PaymentCommand.cancel, .retry, .refund(nil)] {
        await #expect {
          try await log.request(command, of: id)
        } throws: { error in
          if case PaymentLogError.newerEvent(id, _) = error { true } else { false }
        }
      }
      let provider = FakeProvider { _, _ in .done(.recordSettled) }
      try await consuming(log, provider) {
        try await eventually("the cursor is at the end") { try atEnd(log) }
        try await eventually("the other is settled") { try log.load(other)?.payment.status == .settled }
      }
      #expect(provider.calls == [other: 1])
      #expect(log.damage.summary.newer == 1)
      #expect(log.damage.summary.skipped.map(\.id) == [id])
      #expect(try log.reader.stream(SkippedWork.stream).map(\.type) == ["PaymentStepSkipped"])
    }
  }

  @Test("the list's checkpoint doesn't pass a payment that can't be loaded now")
  func failedLoad() async throws {
    try await withTemporaryFolder { folder in
      let store = try open(folder)
      let log = PaymentLog(store)
      let id = try await log.initiate(Self.money)
      try await append([.created(reference: "r")], of: id, from: 2, to: store)
      let event = try #require(try store.reader.events(from: 1, limit: 1).first)
      try await store.close()
      var recent = RecentPayments(log: log)
      #expect(throws: LogStoreError.self) { try recent.take(event) }
    }
  }

  @Test("a payment that lost an event in the middle stays listed as last known, and is marked")
  func lostInTheMiddle() async throws {
    try await withStore { store in
      let log = PaymentLog(store)
      let id = try await log.initiate(Self.money)
      try await append([.created(reference: "r"), .settled], of: id, from: 2, to: store)
      let events = try store.reader.events(from: 0, limit: 3)
      var recent = RecentPayments(log: log)
      #expect(try recent.take(events[0])?.status == .initiated)
      #expect(try recent.take(events[2]) == nil)
      #expect(log.damage.concern(id) == .incomplete)
    }
  }
}

private func bytes(_ text: String) -> [UInt8] { Array(text.utf8) }
