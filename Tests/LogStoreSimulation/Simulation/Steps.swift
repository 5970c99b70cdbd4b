@testable import LogStore

// What the client of a history does.

extension Simulation {
  static let streamCount = 6
  static let cursorCount = 3
  /// Calls whose answers are awaited, at most.
  static let callsMax = 8

  func take(_ step: Plan.Step) {
    trace("step \(step.kind.rawValue)")
    var generator = SeededGenerator(step.seed)
    guard let store else { return }
    switch step.kind {
    case .append:
      startAppend(isBuffered: false, &generator)
      if !generator.oneIn(4) { waitForAnswers() }
    case .appendsAtOnce:
      for _ in 0..<2 + generator.below(5) { startAppend(isBuffered: generator.oneIn(8), &generator) }
      if generator.oneIn(2) { waitForAnswers() }
    case .appendBuffered:
      for _ in 0..<1 + generator.below(4) { startAppend(isBuffered: true, &generator) }
    case .flush: flush(store)
    case .sendAgain: sendAgain(&generator)
    case .reuseID: reuseID(&generator)
    case .commitCursor:
      startAppend(isBuffered: false, eventCount: 0, &generator)
      if generator.oneIn(2) { waitForAnswers() }
    case .readAll: reading { () throws(LogStoreError) in try self.model.check(store.reader) }
    case .readStreams:
      for _ in 0..<3 {
        let stream = streamName(generator.below(Self.streamCount))
        let version = UInt64(generator.below(4))
        reading { () throws(LogStoreError) in
          // Again from its beginning: what is read again comes out of memory, as far as it can.
          for first in [version, 1, 1] {
            if let problem = try self.model.check(store.reader, stream: stream, from: first) { return problem }
          }
          return nil
        }
      }
    case .tail: startTail(store.reader, disk, from: drawnOffset(&generator))
    case .openReader: openReader(&generator)
    case .closeReader:
      if !others.isEmpty { others.remove(at: generator.below(others.count)).reader.close() }
    case .waitUntilIndexed: waitUntilIndexed(store)
    case .openSecondWriter: openSecondWriter()
    case .backUp: backUp(&generator)
    case .verify: verify()
    case .waitForAnswers: waitForAnswers()
    }
    if store.reader.endOffset > 0 { model.require(store.reader.endOffset) }
  }

  private func drawnOffset(_ generator: inout SeededGenerator) -> UInt64 {
    generator.oneIn(2) ? model.required : generator.next() % (model.required + 1)
  }

  /// Does something that reads.
  private func reading(_ body: () throws(LogStoreError) -> String?) {
    do throws(LogStoreError) {
      if let problem = try body() { fail(problem) }
    } catch {
      if !isExpected(error, life: life, disk: disk) { fail("reading: \(error)") }
    }
  }

  // MARK: - Calls

  func start(_ call: Call, _ body: @escaping @Sendable () async throws(LogStoreError) -> Appended) {
    calls.append(call)
    // Proof: tasks run in turns with everything else, on the same thread.
    nonisolated(unsafe) let call = call
    Task(executorPreference: scheduler) {
      do throws(LogStoreError) {
        call.answer = .success(try await body())
      } catch {
        call.answer = .failure(error)
      }
    }
    scheduler.pass()
  }

  func waitForAnswers() {
    if !scheduler.run(until: { self.calls.allSatisfy { $0.answer != nil } }) { return failStuck("a call") }
    collect()
  }

  private func makeCall(_ kind: Call.Kind) -> Call {
    var versions: [String: UInt64] = [:]
    for stream in (0..<Self.streamCount).map(streamName) { versions[stream] = model.leastVersion(stream) }
    let call = Call(kind, life: life, disk: disk, versions: versions, wasStopped: store?.failure != nil)
    if case .append(let number, _) = kind { call.wasPlaced = model.attempts[number].status == .placed }
    return call
  }

  private func send(_ number: Int, isBuffered: Bool) {
    guard let store else { return }
    let append = model.attempts[number].append
    trace("append \(number): \(append.events.map(\.stream)) \(append.conditions) \(isBuffered ? "buffered" : "")")
    start(makeCall(.append(number, isBuffered: isBuffered))) { () async throws(LogStoreError) in
      isBuffered ? try await store.appendBuffered(append) : try await store.append(append)
    }
  }

  func startAppend(isBuffered: Bool, eventCount: Int? = nil, _ generator: inout SeededGenerator) {
    if calls.count >= Self.callsMax { waitForAnswers() }
    let count = eventCount ?? [1, 1, 1, 2, 3, 6].drawn(&generator)
    let hasIDs = generator.oneIn(2)
    var cursors: [CursorCommit] = []
    if !isBuffered, count == 0 || generator.oneIn(5) {
      let free = (0..<Self.cursorCount).map { "c\($0)" }.filter { model.cursors[$0]?.pending == nil }
      if let name = free.isEmpty ? nil : free.drawn(&generator) {
        cursors = [
          CursorCommit(name: name, checkpoint: drawnOffset(&generator), isReset: generator.oneIn(4), mayLag: true)
        ]
      }
    }
    if count == 0, cursors.isEmpty { return }
    let streams = (0..<count).map { _ in streamName(generator.below(Self.streamCount)) }
    let sizes = (0..<count).map { _ in
      generator.oneIn(6) ? generator.below(40) : generator.below(plan.payloadByteCount * 2)
    }
    let conditions = drawnConditions(streams, &generator)
    let metadata = [UInt8](repeating: 77, count: generator.oneIn(3) ? generator.below(30) : 0)
    let type = plan.isHostile ? ["\0", "B", "t"].drawn(&generator) : "t"
    let isOfHeaders = plan.isHostile && count > 0 && generator.oneIn(3)
    let number = model.begin { number in
      if isOfHeaders {
        let events = recordsLikeHeaders(
          attempt: number, stream: ["s0", "s1", "s2", "A"].drawn(&generator), type: type,
          count: 20 + generator.below(100))
        return Append(events, cursors: cursors)
      }
      return Append(
        (0..<count).map { ordinal in
          var payload = Payload.make(attempt: number, ordinal: ordinal, byteCount: sizes[ordinal])
          if plan.isHostile { disguise(&payload, &generator) }
          return NewEvent(
            stream: streams[ordinal], type: type, payload: payload, metadata: metadata,
            id: hasIDs ? EventID(high: 0xE7, low: UInt64(number) << 16 | UInt64(ordinal)) : nil)
        }, conditions: conditions, cursors: cursors)
    }
    send(number, isBuffered: isBuffered)
  }

  private func drawnConditions(
    _ streams: [String], _ generator: inout SeededGenerator
  ) -> StreamConditions {
    var conditions: StreamConditions = [:]
    for _ in 0..<[0, 0, 1, 1, 2].drawn(&generator) {
      let stream =
        streams.isEmpty || generator.oneIn(5)
        ? streamName(generator.below(Self.streamCount)) : streams.drawn(&generator)
      let version = model.versions[stream] ?? 0
      conditions[stream] =
        switch generator.below(8) {
        case 0: .any
        case 1: .noStream
        case 2: .streamExists
        case 3: .version(version + 1)
        case 4: version > 0 ? .version(version - 1) : .noStream
        default: .version(version)
        }
    }
    return conditions
  }

  private func flush(_ store: LogStore) {
    if calls.count >= Self.callsMax { waitForAnswers() }
    start(makeCall(.flush(upTo: bufferedEnd))) { () async throws(LogStoreError) in
      try await store.flush()
      return Appended(offsets: 0..<0, versions: [], isRepeat: false)
    }
    waitForAnswers()
  }

  private func waitUntilIndexed(_ store: LogStore) {
    // Of segments that were durably followed by another when it was asked; one that begins just now may come too late.
    let end = store.reader.commitPoint.end.baseOffset
    start(makeCall(.waitUntilIndexed)) { () async throws(LogStoreError) in
      try await store.waitUntilIndexed()
      return Appended(offsets: 0..<end, versions: [], isRepeat: false)
    }
    waitForAnswers()
  }

  /// An append that was sent before, with the same ids: whatever became of it, it is in the log once.
  private func sendAgain(_ generator: inout SeededGenerator) {
    if calls.count >= Self.callsMax { waitForAnswers() }
    let known = model.attempts.indices.filter { number in
      let append = model.attempts[number].append
      return !append.events.isEmpty && append.events.allSatisfy { $0.id != nil }
        && append.cursors.allSatisfy { model.cursors[$0.name]?.pending == nil }
    }
    if known.isEmpty { return }
    // Mostly the last ones, which a crash may have cut short.
    let number = generator.oneIn(2) ? known.drawn(&generator) : known[known.count - 1]
    let copies = generator.oneIn(4) && model.attempts[number].append.cursors.isEmpty ? 2 : 1
    for _ in 0..<copies {
      model.beginAgain(number)
      send(number, isBuffered: false)
    }
    if generator.oneIn(2) { waitForAnswers() }
  }

  /// An append with an id that is in the log, and the place that it has there.
  struct Reuse {
    var offset: UInt64
    var stream: String
    var difference: EventIDReuse.Difference
  }

  /// Another append with an id that is in the log: of another event, in another place, or in other company.
  private func reuseID(_ generator: inout SeededGenerator) {
    waitForAnswers()
    let known = model.attempts.indices.filter { number in
      let attempt = model.attempts[number]
      guard attempt.status == .placed, let offsets = attempt.offsets else { return false }
      return offsets.upperBound <= model.required && attempt.append.events.first?.id != nil
    }
    guard !known.isEmpty else { return }
    let known0 = model.attempts[known.drawn(&generator)]
    let event = known0.append.events[0]
    let kind = generator.below(5)
    var other = event
    var conditions: StreamConditions = [:]
    var difference: EventIDReuse.Difference
    switch kind {
    case 0:
      other.stream = event.stream == "s0" ? "s1" : "s0"
      difference = .stream(other.stream)
    case 1:
      // As often as not the condition holds: the stream is there.
      let version = model.versions[event.stream] ?? 0
      conditions = [event.stream: .version(version)]
      difference = .version(version + 1)
    case 2:
      other.type = "another"
      difference = .type("another")
    case 3:
      other.payload.append(1)
      difference = .payload(
        byteCount: other.payload.count, knownByteCount: event.payload.count, firstDifference: event.payload.count)
    default: difference = .append(event: 1)
    }
    // What the log would serve, if it took it, is not the attempt's own: it may not take it.
    let number = model.begin { number in
      let beside = NewEvent(
        stream: event.stream, type: "t", payload: Payload.make(attempt: number, ordinal: 1, byteCount: 20),
        id: EventID(high: 0xE7, low: UInt64(number) << 16 | 1))
      return Append(kind == 4 ? [other, beside] : [other], conditions: conditions)
    }
    // Proof: it was asked for above.
    let offset = known0.offsets!.lowerBound
    reused[number] = Reuse(offset: offset, stream: event.stream, difference: difference)
    send(number, isBuffered: false)
    waitForAnswers()
  }

  // MARK: - Answers

  /// Compares the answers that have come with the model.
  func collect() {
    var open: [Call] = []
    let known = calls
    calls = []
    for call in known {
      guard let answer = call.answer else {
        open.append(call)
        continue
      }
      if let problem = check(call, answer) { fail(problem) }
    }
    calls = open + calls
  }

  private func check(_ call: Call, _ answer: Result<Appended, LogStoreError>) -> String? {
    switch call.kind {
    case .append(let number, let isBuffered): return check(call, number, isBuffered, answer)
    case .flush(let end):
      if case .success = answer { model.require(end) }
    case .waitUntilIndexed:
      // Where syncs fail, a file may be known whose name is not durable; nothing but time depends on it.
      if case .success(let done) = answer, call.life == life, !isFailing {
        indexedEnd = max(indexedEnd, done.offsets.upperBound)
      }
    case .close: break
    }
    if case .failure(let error) = answer, !isExpected(error, life: call.life, disk: call.disk), error != .closed {
      return "\(call.kind): \(error)"
    }
    if case .success = answer, case .waitUntilIndexed = call.kind { return nil }
    if case .success = answer, call.wasStopped { return "\(call.kind) succeeded after a failure" }
    return nil
  }

  private func check(
    _ call: Call, _ number: Int, _ isBuffered: Bool, _ answer: Result<Appended, LogStoreError>
  ) -> String? {
    trace("answer \(number): \(answer)")
    switch answer {
    case .success(let done):
      if reused[number] != nil { return "append \(number) has the id of another one, and was written" }
      if call.wasStopped { return "append \(number) was acknowledged after a failure" }
      if isBuffered, call.life != life {
        // It had a place in a life that is over: whether it is there was seen since.
        model.fail(number)
        return nil
      }
      if isBuffered { bufferedEnd = max(bufferedEnd, done.offsets.upperBound) }
      if !isBuffered, let store, call.disk === disk, store.reader.endOffset < done.offsets.upperBound {
        return "append \(number) was acknowledged at \(done.offsets), the log ends with \(store.reader.endOffset)"
      }
      return model.acknowledge(number, done, isBuffered: isBuffered, life: call.life)
    case .failure(.conflict(let stream, let expected, let actual)):
      return model.refuse(
        number, stream, expected, actual: actual, atLeast: call.versions[stream] ?? 0, wasPlaced: call.wasPlaced,
        isBuffered: isBuffered)
    case .failure(.eventIDReused(let reuse)) where reused[number] != nil:
      // Proof: looked at a line above.
      let known = reused[number]!
      guard reuse.offset == known.offset, reuse.stream == known.stream, reuse.difference == known.difference else {
        return "append \(number) was refused for \(reuse), expected \(known)"
      }
      return model.refuse(number, wasPlaced: false)
    case .failure(let error):
      model.fail(number)
      return isExpected(error, life: call.life, disk: call.disk) || error == .closed
        ? nil : "append \(number): \(error)"
    }
  }

  // MARK: - Others

  func startTail(_ reader: LogReader, _ disk: SimulatedDisk, from offset: UInt64) {
    // Proof: tasks run in turns with everything else, on the same thread.
    nonisolated(unsafe) let tail = Tail(disk: disk, from: offset)
    tails.append(tail)
    let life = life
    Task(executorPreference: scheduler) { [self] in
      do throws(LogStoreError) {
        var cursor = reader.cursor(from: tail.next)
        repeat {
          while let event = try cursor.next() {
            if event.offset != tail.next { fail("a tail was given offset \(event.offset) after \(tail.next)") }
            if let problem = model.see(event) { fail("a tail: \(problem)") }
            tail.next = event.offset + 1
          }
        } while try await cursor.waitForMore()
      } catch {
        if error != .closed, !isExpected(error, life: life, disk: disk) { fail("a tail: \(error)") }
      }
      tail.isDone = true
    }
  }

  private func openReader(_ generator: inout SeededGenerator) {
    if others.count >= 2 { others.removeFirst().reader.close() }
    let disk = process()
    let begin = scheduler.microseconds
    defer {
      let milliseconds = (scheduler.microseconds - begin) / 1000
      if milliseconds > 3 * Follower.openingTimeoutMilliseconds {
        fail("another process's reader: opened, or gave up, after \(milliseconds) ms")
      }
    }
    do throws(LogStoreError) {
      let (follower, commitPoint, recovery) = try Follower.open(Self.directory, disk: disk)
      let reader = LogReader(commitPoint: commitPoint, follower: follower, recovery: recovery)
      others.append(OtherReader(reader: reader, disk: disk))
      if let problem = try model.check(reader) { fail("another process's reader: \(problem)") }
      startTail(reader, disk, from: generator.oneIn(2) ? reader.endOffset : 0)
    } catch {
      if isStopped(error) { return }
      fail("another process's reader: \(error)")
    }
  }

  private func openSecondWriter() {
    do throws(LogStoreError) {
      let second = try LogStore.open(Self.directory, options: Self.options, disk: process())
      if !disk.isDead { fail("a second writer was let in") }
      second.abandon()
    } catch {
      if case .locked = error { return }
      fail("a second writer: \(error)")
    }
  }

  /// A writer that could not say that it is open, and has stopped.
  func isStopped(_ error: LogStoreError) -> Bool {
    if case .locked = error { store?.failure != nil } else { false }
  }

  private func verify() {
    var verification = Verification(directory: Self.directory, disk: process(), progress: nil)
    do throws(LogStoreError) {
      try verification.run()
      if let damage = verification.report.findings.first { fail("verify beside the writer: \(damage)") }
    } catch {
      if !isStopped(error) { fail("verify beside the writer: \(error)") }
    }
  }
}
