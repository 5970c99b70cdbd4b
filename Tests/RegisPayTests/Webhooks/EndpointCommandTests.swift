import LogStore
import Synchronization
import Testing

@testable import RegisPay

/// Lets writes of the webhooks' file wait and fail as a test wants it.
private final class WriteGate: Sendable {
  struct Refused: Error {}
  enum Kind: Sendable { case configure, disable, remove, progress }

  private let state = Mutex((kinds: Set<Kind>(), held: [CheckedContinuation<Void, any Error>]()))

  /// Keeps writes of this kind from now on until ``release(failing:)``.
  func hold(_ kind: Kind) { state.withLock { $0.kinds = [kind] } }

  var heldCount: Int { state.withLock { $0.held.count } }

  func release(failing: Bool) {
    let held = state.withLock { state in
      defer { (state.kinds, state.held) = ([], []) }
      return state.held
    }
    for write in held { failing ? write.resume(throwing: Refused()) : write.resume() }
  }

  func willWrite(_ changes: [WebhookChange]) async throws {
    let kinds = Set(
      changes.compactMap { change -> Kind? in
        switch change {
        case .configure: .configure
        case .disable: .disable
        case .remove: .remove
        case .progress: .progress
        default: nil
        }
      })
    try await withCheckedThrowingContinuation { (write: CheckedContinuation<Void, any Error>) in
      let isFree = state.withLock { state in
        guard !state.kinds.isDisjoint(with: kinds) else { return true }
        state.held.append(write)
        return false
      }
      if isFree { write.resume() }
    }
  }
}

/// What a person asks for while tries end, and while writes fail.
@Suite("A command to an endpoint")
struct EndpointCommandTests {
  private func withEndpoint(
    _ work: @escaping @Sendable (WebhookBench, FakeReceiver, EndpointWorker, WriteGate) async throws -> Void
  ) async throws {
    try await FakeReceiver.run { receiver in
      try await WebhookBench.run { bench in
        var bench = bench
        let gate = WriteGate()
        bench.options.willWrite = gate.willWrite
        try await bench.delivering { [bench] webhooks in
          try await work(bench, receiver, try await webhooks.add(receiver.url), gate)
        }
      }
    }
  }

  /// What the file says.
  private func stored(_ bench: WebhookBench) async throws -> [WebhookTable.StoredEndpoint] {
    let journal = try WebhookJournal.open(bench.directory, health: Health(stores: []))
    let stored = try journal.endpoints()
    await journal.close()
    return stored
  }

  @Test("that registers the first endpoint is refused while the log can't record it, and leaves nothing")
  func markFails() async throws {
    try await WebhookBench.run { bench in
      let log = PaymentLog(bench.log.store) { _ async throws(LogStoreError) in
        throw .diskFull(operation: "write", path: "log")
      }
      var full = WebhookBench(log: log, directory: bench.directory)
      full.options = bench.options
      try await full.delivering { webhooks in
        await #expect(throws: WebhookStoreError.self) { try await webhooks.add("http://127.0.0.1:1/") }
        #expect(webhooks.all.isEmpty)
      }
      #expect(try await stored(full).isEmpty)
      // And is registered as soon as the log can.
      try await bench.delivering { webhooks in _ = try await webhooks.add("http://127.0.0.1:1/") }
      #expect(try await stored(bench).count == 1)
    }
  }

  @Test(
    "whose write fails does not undo that the endpoint was disabled meanwhile, and changes nothing",
    arguments: [false, true])
  func disabledMeanwhile(isFailing: Bool) async throws {
    try await withEndpoint { bench, receiver, worker, gate in
      receiver.respond { _ in .status(410) }
      gate.hold(.configure)
      let change = Task { try await worker.change(.init(description: "new")) }
      try await eventually("it is being written") { gate.heldCount == 1 }
      try await bench.initiate(1)
      try await eventually("the receiver's response has disabled it") { await worker.status.endpoint.disabled != nil }
      gate.release(failing: isFailing)
      let result = await change.result
      switch result {
      case .success: #expect(!isFailing)
      case .failure(let error): #expect(isFailing && error is WebhookStoreError)
      }
      try await eventually("nothing is in flight") { await worker.inFlightCount == 0 }
      let endpoint = await worker.status.endpoint
      #expect(endpoint.disabled?.reason.contains("410") == true)
      #expect(endpoint.description == (isFailing ? "" : "new"))
      #expect(try await stored(bench).map(\.endpoint) == [endpoint], "on disk it is the same")
    }
  }

  @Test("holds from when it is written: no try uses a secret, a URL or an enabling that may not last")
  func holdsWhenWritten() async throws {
    try await withEndpoint { bench, receiver, worker, gate in
      let before = await worker.status.endpoint
      gate.hold(.configure)
      let rotation = Task { try await worker.rotate() }
      try await eventually("it is being written") { gate.heldCount == 1 }
      #expect(await worker.status.endpoint == before)
      let change = Task { try await worker.change(.init(isEnabled: false)) }
      gate.release(failing: true)
      await #expect(throws: WebhookStoreError.self) { try await rotation.value }
      #expect(try await change.value.endpoint.disabled != nil, "the one behind it is carried out")
      #expect(await worker.status.endpoint.secret == before.secret)
      #expect(try await stored(bench).first?.endpoint.secret == before.secret)
    }
  }

  @Test("that enables it is not undone by an older write that failed and is repeated")
  func enabledSince() async throws {
    try await withEndpoint { bench, receiver, worker, gate in
      receiver.respond { _ in .status(410) }
      gate.hold(.disable)
      try await bench.initiate(1)
      try await eventually("the disabling is being written") { gate.heldCount == 1 }
      gate.release(failing: true)
      receiver.respond { _ in .ok }
      #expect(try await worker.change(.init(isEnabled: true)).endpoint.disabled == nil)
      bench.clock.advance(by: .seconds(2))
      try await eventually("all is delivered and written") {
        let waiting = await worker.status.waitingCount
        let inFlightCount = await worker.inFlightCount
        return waiting == 0 && inFlightCount == 0
      }
      #expect(await worker.status.endpoint.disabled == nil)
      let stored = try await stored(bench)
      #expect(stored.first?.endpoint.disabled == nil && stored.first?.waiting == [])
    }
  }

  /// Answers the first URL's messages with a status once a test says so, and others with 200.
  private func withLateResponse(
    _ status: Int,
    _ work:
      @escaping @Sendable (
        WebhookBench, FakeReceiver, EndpointWorker, WriteGate, _ letRespond: @Sendable () -> Void
      ) async throws -> Void
  ) async throws {
    try await withEndpoint { bench, receiver, worker, gate in
      let (late, respondNow) = AsyncStream<Void>.makeStream()
      receiver.respond { message in
        guard message.path == "/hook" else { return .ok }
        for await _ in late {}
        return .status(status, [("Retry-After", "3600")])
      }
      try await bench.initiate(1)
      try await eventually("a call is in flight") { receiver.received.count == 1 }
      try await work(bench, receiver, worker, gate) { respondNow.finish() }
    }
  }

  private func moved(_ receiver: FakeReceiver) throws -> EndpointWorker.Change {
    .init(url: try WebhookURL(receiver.url.replacing("/hook", with: "/new")))
  }

  @Test(
    "that changes its URL: a late response of the former URL does not count, and the message goes to the new URL",
    arguments: [410, 500, 503, 301, 200], [false, true])
  func lateResponse(_ code: Int, isDuringTheWrite: Bool) async throws {
    try await withLateResponse(code) { bench, receiver, worker, gate, letRespond in
      if isDuringTheWrite {
        gate.hold(.configure)
        let change = Task { try await worker.change(moved(receiver)) }
        try await eventually("it is being written") { gate.heldCount == 1 }
        letRespond()
        try await eventually("the response has arrived") { await worker.endedDuringWrite?.count == 1 }
        gate.release(failing: false)
        _ = try await change.value
      } else {
        _ = try await worker.change(moved(receiver))
        letRespond()
      }
      try await worker.rests(at: 1)
      try await eventually("nothing waits") { await worker.status.waitingCount == 0 }
      let status = await worker.status
      #expect(status.endpoint.disabled == nil)
      #expect(status.progress.failuresInRow == 0 && status.progress.heldUntilMicroseconds == 0)
      try await bench.initiate(1)
      try await worker.rests(at: 2)
      #expect(receiver.received.map(\.path) == (code == 200 ? ["/hook", "/new"] : ["/hook", "/new", "/new"]))
      let stored = try await stored(bench)
      #expect(stored.map(\.endpoint) == [status.endpoint] && stored.first?.waiting == [])
    }
  }

  @Test("that changes its URL and fails: the URL's response in the meantime counts")
  func notMoved() async throws {
    try await withLateResponse(410) { bench, receiver, worker, gate, letRespond in
      gate.hold(.configure)
      let change = Task { try await worker.change(moved(receiver)) }
      try await eventually("it is being written") { gate.heldCount == 1 }
      letRespond()
      try await eventually("the response has arrived") { await worker.endedDuringWrite?.count == 1 }
      gate.release(failing: true)
      await #expect(throws: WebhookStoreError.self) { try await change.value }
      try await eventually("it is disabled") { await worker.status.endpoint.disabled != nil }
      try await eventually("nothing is in flight") { await worker.inFlightCount == 0 }
      #expect(try await stored(bench).first?.endpoint.disabled != nil)
    }
  }

  @Test("that removes it and fails loses no try that ended meanwhile")
  func notRemoved() async throws {
    try await withEndpoint { bench, receiver, worker, gate in
      gate.hold(.remove)
      let removal = Task { try await worker.remove() }
      try await eventually("it is being written") { gate.heldCount == 1 }
      let ids = try await bench.initiate(3)
      gate.release(failing: true)
      await #expect(throws: WebhookStoreError.self) { try await removal.value }
      try await worker.rests(at: 3)
      #expect(Set(receiver.ids) == Set(ids))
      try await worker.remove()
      #expect(try await stored(bench).isEmpty)
    }
  }

  @Test("that replays and fails sends nothing again")
  func notReplayed() async throws {
    try await withEndpoint { bench, receiver, worker, gate in
      let ids = try await bench.initiate(2)
      try await worker.rests(at: 2)
      gate.hold(.progress)
      let replay = Task { try await worker.replay(from: 0) }
      try await eventually("it is being written") { gate.heldCount == 1 }
      gate.release(failing: true)
      await #expect(throws: WebhookStoreError.self) { try await replay.value }
      #expect(await worker.status.progress.checkpoint == 2)
      #expect(receiver.ids.sorted() == ids.sorted())
      _ = try await worker.replay(from: 1)
      try await eventually("one is sent again") { receiver.received.count == 3 }
    }
  }
}
