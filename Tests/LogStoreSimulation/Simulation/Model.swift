@testable import LogStore

/// The requests to a log, its results, and what it has shown: everything that it shows is checked against them.
///
/// Proof for Sendable: used in turns, on the one thread that runs its history.
final class Model: @unchecked Sendable {
  struct Attempt: Sendable {
    enum Status: Sendable {
      /// Unknown so far; only reading the log can tell.
      case unknown
      /// In the log, for good if it is before ``Model/required``.
      case placed
      /// The log said that it wrote nothing.
      case refused
      /// A writer opened the log without it.
      case gone
    }

    var append: Append
    var status = Status.unknown
    var offsets: Range<UInt64>?
    var versions: [UInt64] = []
    /// Calls without a result so far.
    var calls = 0
    /// One of its calls failed without saying what became of it; until a writer opens the log.
    var isUncertain = false
    /// It was reported as written just now.
    var isWritten = false
    /// The life in which a writer found it in the log.
    var foundIn: Int?
  }

  struct Cursor: Sendable {
    var checkpoint: UInt64?
    /// An append that may have moved it.
    var pending: (attempt: Int, commit: CursorCommit)?
  }

  /// An event as it was seen, with the attempt that it came from.
  struct Seen: Sendable, Equatable {
    var attempt: Int
    var ordinal: Int
  }

  private(set) var attempts: [Attempt] = []
  var cursors: [String: Cursor] = [:]
  /// Whatever happens, the log reaches at least this offset.
  private(set) var required: UInt64 = 0
  /// The events that any reader saw, by offset.
  private var seen: [Seen?] = []
  /// Whatever happens, streams have at least these versions.
  private var floors: [String: UInt64] = [:]
  /// Versions as far as they are known.
  private(set) var versions: [String: UInt64] = [:]

  init() {}

  init(copying other: Model) {
    attempts = other.attempts
    cursors = other.cursors
    required = other.required
    seen = other.seen
    floors = other.floors
    versions = other.versions
  }

  // MARK: - Asking

  func begin(_ make: (_ number: Int) -> Append) -> Int {
    attempts.append(Attempt(append: make(attempts.count), calls: 1))
    noteCursor(attempts.count - 1)
    return attempts.count - 1
  }

  func beginAgain(_ number: Int) {
    attempts[number].calls += 1
    if attempts[number].status == .refused || attempts[number].status == .gone { attempts[number].status = .unknown }
    noteCursor(number)
  }

  private func noteCursor(_ number: Int) {
    for commit in attempts[number].append.cursors { cursors[commit.name, default: Cursor()].pending = (number, commit) }
  }

  /// A reader that sees the log end there may rely on it.
  func require(_ offset: UInt64) {
    required = max(required, offset)
  }

  // MARK: - Answers

  /// - Returns: what is wrong.
  func acknowledge(_ number: Int, _ done: Appended, isBuffered: Bool, life: Int) -> String? {
    attempts[number].calls -= 1
    let attempt = attempts[number]
    guard done.offsets.count == attempt.append.events.count, done.versions.count == attempt.append.events.count else {
      return "append \(number) has \(attempt.append.events.count) events, the answer is \(done)"
    }
    if let known = attempt.offsets {
      // A buffered append that was lost gets other offsets.
      guard known == done.offsets, attempt.versions.isEmpty || attempt.versions == done.versions else {
        return "append \(number) is at \(known), versions \(attempt.versions); now the answer is \(done)"
      }
    }
    // Results may come late, and in another order than they were produced.
    if !attempt.append.events.isEmpty {
      if attempt.status == .gone {
        return "append \(number) was acknowledged, but a writer has opened the log without it"
      }
      if !done.isRepeat, attempt.isWritten || attempt.foundIn ?? .max <= life {
        return "append \(number) is in the log and was written again"
      }
    }
    attempts[number].status = .placed
    if !done.isRepeat { attempts[number].isWritten = true }
    attempts[number].versions = done.versions
    if !attempt.append.events.isEmpty { attempts[number].offsets = done.offsets }
    if !isBuffered { require(done.offsets.upperBound) }
    for (event, version) in zip(attempt.append.events, done.versions) {
      versions[event.stream] = max(versions[event.stream] ?? 0, version)
      if !isBuffered { floors[event.stream] = max(floors[event.stream] ?? 0, version) }
    }
    for commit in attempt.append.cursors where cursors[commit.name]?.pending?.attempt == number {
      let checkpoint = moved(cursors[commit.name]?.checkpoint, commit)
      if !done.isRepeat { cursors[commit.name]?.checkpoint = checkpoint }
      cursors[commit.name]?.pending = nil
    }
    return nil
  }

  /// A condition failed: because of a version that is there for good, or, for a buffered append, one that may be lost with
  /// what was buffered.
  func refuse(
    _ number: Int, _ stream: String, _ condition: StreamCondition, actual: UInt64, atLeast: UInt64, wasPlaced: Bool,
    isBuffered: Bool
  ) -> String? {
    guard attempts[number].append.conditions[stream] == condition, !condition.isMet(by: actual) else {
      return "append \(number) was refused for \(stream) being at \(actual), expected \(condition)"
    }
    guard actual >= atLeast else {
      return "append \(number) was refused for \(stream) being at \(actual), when it was at \(atLeast) already"
    }
    floors[stream] = max(floors[stream] ?? 0, actual)
    return refuse(number, wasPlaced: wasPlaced)
  }

  /// - Parameter wasPlaced: it was in the log at the time of the call.
  func refuse(_ number: Int, wasPlaced: Bool) -> String? {
    attempts[number].calls -= 1
    if wasPlaced { return "append \(number) is in the log, and was refused when sent again" }
    // Another of its calls may still be written, or have been, and move the cursor.
    guard attempts[number].calls == 0, !attempts[number].isUncertain else { return nil }
    if attempts[number].status != .placed { attempts[number].status = .refused }
    dropCursor(number)
    return nil
  }

  /// It failed in a way that says nothing about the append.
  func fail(_ number: Int) {
    attempts[number].calls -= 1
    attempts[number].isUncertain = true
  }

  private func dropCursor(_ number: Int) {
    for commit in attempts[number].append.cursors where cursors[commit.name]?.pending?.attempt == number {
      cursors[commit.name]?.pending = nil
    }
  }

  private func moved(_ checkpoint: UInt64?, _ commit: CursorCommit) -> UInt64 {
    commit.isReset ? commit.checkpoint : max(checkpoint ?? 0, commit.checkpoint)
  }

  // MARK: - Looking

  /// An event was served.
  func see(_ event: borrowing EventView) -> String? {
    let payload = event.payload.withUnsafeBytes { Payload($0) }
    guard let payload, payload.attempt < attempts.count,
      payload.ordinal < attempts[payload.attempt].append.events.count
    else { return "an event that was never asked for at offset \(event.offset)" }
    let asked = attempts[payload.attempt].append.events[payload.ordinal]
    guard event.payload.withUnsafeBytes({ isSame($0, asked.payload) }),
      event.stream.withUnsafeBytes({ isSame($0, Array(asked.stream.utf8)) }), event.type.byteCount == 1,
      event.metadata.byteCount == asked.metadata.count, asked.id == nil || asked.id == event.id
    else { return "the event at offset \(event.offset) is not what was asked for" }
    let now = Seen(attempt: payload.attempt, ordinal: payload.ordinal)
    let offset = Int(event.offset)
    while seen.count <= offset { seen.append(nil) }
    if let before = seen[offset], before != now {
      return "offset \(offset) was \(before), is \(now)"
    }
    seen[offset] = now
    require(event.offset + 1)
    return nil
  }

  private func isSame(_ left: UnsafeRawBufferPointer, _ right: [UInt8]) -> Bool {
    right.withUnsafeBytes { equal(left, $0) }
  }

  /// Checks the whole log as a reader sees it; nil if all is well.
  ///
  /// - Parameter life: a writer has just opened the log for this life: what is not there now never will be.
  func check(_ reader: LogReader, openingIn life: Int? = nil) throws(LogStoreError) -> String? {
    let end = reader.endOffset
    var problem: String?
    var count: UInt64 = 0
    var timestamp: UInt64 = 0
    var streams: [String: UInt64] = [:]
    var whole: (attempt: Int, next: Int)?
    var firstOffsets: [Int: UInt64] = [:]
    try reader.forEach(from: 0) { event in
      problem = see(event)
      if problem != nil { return false }
      guard event.offset == count, event.timestampMicroseconds >= timestamp else {
        problem = "offset \(event.offset) as number \(count), at \(event.timestampMicroseconds) after \(timestamp)"
        return false
      }
      // Proof: it was just seen.
      let now = seen[Int(count)]!
      let attempt = attempts[now.attempt]
      if now.ordinal == 0 {
        if let whole { problem = "only \(whole.next) events of append \(whole.attempt)" }
        if firstOffsets.updateValue(count, forKey: now.attempt) != nil {
          problem = "append \(now.attempt) is there twice"
        }
        for (stream, condition) in attempt.append.conditions where !condition.isMet(by: streams[stream] ?? 0) {
          problem = "append \(now.attempt) is at \(count), where \(stream) is at \(streams[stream] ?? 0)"
        }
        if attempt.status == .refused || attempt.status == .gone {
          problem = "append \(now.attempt) is at offset \(count), though \(attempt.status)"
        }
        if let offsets = attempt.offsets, offsets.lowerBound != count {
          problem = "append \(now.attempt) was acknowledged at \(offsets), is at \(count)"
        }
      } else if whole?.attempt != now.attempt || whole?.next != now.ordinal {
        problem = "event \(now.ordinal) of append \(now.attempt) stands behind another one at offset \(count)"
      }
      whole = now.ordinal + 1 < attempt.append.events.count ? (now.attempt, now.ordinal + 1) : nil
      let stream = attempt.append.events[now.ordinal].stream
      streams[stream, default: 0] += 1
      if event.version != streams[stream] {
        problem = "version \(event.version) of \(stream) at offset \(count), expected \(streams[stream] ?? 0)"
      } else if !attempt.versions.isEmpty, attempt.versions[now.ordinal] != event.version {
        problem = "append \(now.attempt) was given versions \(attempt.versions), found \(event.version)"
      }
      timestamp = event.timestampMicroseconds
      count += 1
      return problem == nil
    }
    if let problem { return problem }
    if let whole { return "only \(whole.next) events of append \(whole.attempt)" }
    if count < end { return "\(count) events, the log ends with \(end)" }
    require(end)
    for (number, attempt) in attempts.enumerated() where attempt.status == .placed {
      if let offsets = attempt.offsets, offsets.lowerBound < count, firstOffsets[number] == nil {
        return "append \(number) was acknowledged at \(offsets), another one is there"
      }
    }
    if let life { return try open(reader, count, streams, firstOffsets, life) }
    return nil
  }

  /// Compares what a writer, or any reader while there is none, must find, and adopts it as the truth.
  private func open(
    _ reader: LogReader, _ count: UInt64, _ streams: [String: UInt64], _ firstOffsets: [Int: UInt64], _ life: Int
  ) throws(LogStoreError) -> String? {
    if count < required { return "lost: the log ends with \(count), it went to \(required)" }
    for (stream, version) in floors where streams[stream] ?? 0 < version {
      return "\(stream) is at \(streams[stream] ?? 0), it was said to be at \(version)"
    }
    versions = streams
    let known = try reader.cursors()
    for (name, _) in known where cursors[name] == nil { return "a cursor \(name) that nobody committed" }
    for name in cursors.keys.sorted() {
      guard var cursor = cursors[name] else { continue }
      let checkpoint = known.first { $0.name == name }?.checkpoint
      var allowed: [UInt64?] = [cursor.checkpoint]
      if let (number, commit) = cursor.pending {
        let after = moved(cursor.checkpoint, commit)
        if attempts[number].append.events.isEmpty {
          allowed.append(after)
        } else if attempts[number].status != .placed, firstOffsets[number] != nil {
          allowed = [after]
        }
      }
      guard allowed.contains(checkpoint) else {
        return "cursor \(name) is at \(checkpoint.map(String.init) ?? "no checkpoint"), expected \(allowed)"
      }
      cursor.checkpoint = checkpoint
      cursor.pending = nil
      cursors[name] = cursor
    }
    for number in attempts.indices {
      attempts[number].isUncertain = false
      if let offset = firstOffsets[number] {
        attempts[number].status = .placed
        attempts[number].foundIn = attempts[number].foundIn ?? life
        attempts[number].offsets = offset..<offset + UInt64(attempts[number].append.events.count)
      } else if attempts[number].status != .refused {
        // Appends of cursors alone are not visible.
        attempts[number].status = .gone
        attempts[number].offsets = nil
        attempts[number].versions = []
        attempts[number].isWritten = false
        attempts[number].foundIn = nil
      }
    }
    return nil
  }

  /// A stream as a reader serves it.
  func check(_ reader: LogReader, stream: String, from version: UInt64) throws(LogStoreError) -> String? {
    var next = max(version, 1)
    var problem: String?
    try reader.forEach(inStream: stream, from: version) { event in
      if problem != nil { return }
      problem = see(event)
      if event.version != next || event.stream.withUnsafeBytes({ !isSame($0, Array(stream.utf8)) }) {
        problem = "version \(event.version) of \(stream), expected \(next)"
      }
      next += 1
    }
    if let problem { return problem }
    let floor = floors[stream] ?? 0
    if next <= floor { return "\(stream) is served to version \(next - 1), it goes to \(floor)" }
    return nil
  }

  /// The least version that a stream has.
  func leastVersion(_ stream: String) -> UInt64 { floors[stream] ?? 0 }
}

/// The start of an event's payload: where it comes from.
struct Payload {
  var attempt: Int
  var ordinal: Int

  static let byteCount = 8

  init?(_ bytes: UnsafeRawBufferPointer) {
    guard bytes.count >= Self.byteCount else { return nil }
    attempt = Int(bytes.loadUnaligned(fromByteOffset: 0, as: UInt32.self).bigEndian)
    ordinal = Int(bytes.loadUnaligned(fromByteOffset: 4, as: UInt32.self))
  }

  /// - Parameter filler: the bytes behind it; if nil, bytes that differ from one event to the next.
  static func make(attempt: Int, ordinal: Int, byteCount: Int, filler: UInt8? = nil) -> [UInt8] {
    var bytes = [UInt8](
      repeating: filler ?? UInt8(truncatingIfNeeded: attempt &* 7 &+ ordinal), count: max(byteCount, Self.byteCount))
    bytes.withUnsafeMutableBytes { buffer in
      // The first bytes are zeros: they stand where a frame's header has its synced position.
      buffer.storeBytes(of: UInt32(attempt).bigEndian, toByteOffset: 0, as: UInt32.self)
      buffer.storeBytes(of: UInt32(ordinal), toByteOffset: 4, as: UInt32.self)
    }
    return bytes
  }
}
