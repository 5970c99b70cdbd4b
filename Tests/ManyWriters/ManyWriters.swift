import Glibc
import LogStore

/// A process to be killed: 64 tasks append to one store in every way that there is, a reader follows, another loads streams.
/// Tells on standard output what was acknowledged, one write a line:
///
///     ack OFFSET COUNT MARK    events OFFSET… are durable, their payloads begin with MARK/0/COUNT/, MARK/1/COUNT/…
///     cursor NAME PLACE        so is this cursor
///     seen OFFSET              a reader has seen this event
///     wrong TEXT               a promise is broken; the process ends with 3
///
/// It goes on until it is killed.
@main
struct ManyWriters {
  static func main() async {
    let arguments = CommandLine.arguments
    guard arguments.count == 4, let round = Int(arguments[2]), let seed = UInt64(arguments[3]) else {
      say("wrong usage: ManyWriters DIRECTORY ROUND SEED")
      exit(64)
    }
    do {
      var options = LogStore.Options()
      // Small, so that segments are ended, indexed and merged all the time.
      options.segmentBytes = 512 << 10
      let store = try LogStore.open(arguments[1], options: options)
      await withTaskGroup(of: Void.self) { group in
        for number in 0..<64 {
          let random = Generator(state: seed &+ UInt64(number) &* 0x9E37_79B9)
          group.addTask {
            await guarded {
              var writer = Writer(store: store, round: round, number: number, random: random)
              try await writer.run()
            }
          }
        }
        group.addTask { await guarded { try await follow(store.reader) } }
        group.addTask { await guarded { try await load(store.reader, Generator(state: ~seed)) } }
      }
    } catch {
      wrong("the store can't be opened: \(error)")
    }
  }

  private static func follow(_ reader: LogReader) async throws {
    var expected = reader.endOffset
    var cursor = reader.cursor(from: expected)
    while true {
      while let event = try cursor.next() {
        guard event.offset == expected else { wrong("the reader is at \(event.offset), expected \(expected)") }
        expected += 1
      }
      if expected > 0 { say("seen \(expected - 1)") }
      _ = try await cursor.waitForMore()
    }
  }

  private static func load(_ reader: LogReader, _ random: Generator) async throws {
    var random = random
    var known: [String: UInt64] = [:]
    while true {
      let stream = "\(Bool.random(using: &random) ? "w" : "b")\(Int.random(in: 0..<64, using: &random))"
      let from = (known[stream] ?? 0) > 20 ? known[stream, default: 0] - 20 : 1
      let versions = try reader.stream(stream, from: from, limit: 100).map(\.version)
      guard versions == (0..<UInt64(versions.count)).map({ from + $0 }) else {
        wrong("stream \(stream) from version \(from) on has versions \(versions)")
      }
      let last = versions.last ?? from - 1
      guard last >= known[stream] ?? 0 else {
        wrong("stream \(stream) has lost events: its last is \(last), was \(known[stream] ?? 0)")
      }
      known[stream] = last
      try await Task.sleep(for: .milliseconds(1))
    }
  }
}

/// One of the tasks.
private struct Writer {
  let store: LogStore
  let round: Int
  let number: Int
  var random: Generator
  private var count = 0

  init(store: LogStore, round: Int, number: Int, random: Generator) {
    (self.store, self.round, self.number, self.random) = (store, round, number, random)
  }

  private var mark: String { "r\(round)/w\(number)/n\(count)" }

  mutating func run() async throws {
    try await repeatLast()
    var versions = (try store.reader.streamVersion("w\(number)"), try store.reader.streamVersion("b\(number)"))
    while true {
      count += 1
      switch Int.random(in: 0..<8, using: &random) {
      case 0: try await beginStream()
      case 1: try await appendOnce()
      case 2: try await contend()
      case 3:
        let place = store.reader.endOffset
        try await append([event("w\(number)", 0, of: 1)], ["w\(number)": versions.0], cursor: place)
        versions.0 += 1
        say("cursor c\(number) \(place)")
      default:
        let events = (0..<Int.random(in: 1...6, using: &random)).map { _ in Bool.random(using: &random) }
        try await append(
          events.enumerated().map { event("\($1 ? "w" : "b")\(number)", $0, of: events.count) },
          ["w\(number)": versions.0, "b\(number)": versions.1])
        versions.0 += UInt64(events.count { $0 })
        versions.1 += UInt64(events.count { !$0 })
      }
    }
  }

  /// What was acknowledged before the kill is known by its id after it.
  private func repeatLast() async throws {
    let stream = "i\(number)"
    let version = try store.reader.streamVersion(stream)
    guard version > 0 else { return }
    guard let last = try store.reader.stream(stream, from: version, limit: 1).first else {
      wrong("stream \(stream) lacks its last event, \(version)")
    }
    let again = try await store.append(
      Append(NewEvent(stream: stream, type: last.type, payload: last.payload, id: last.id)))
    guard again.isRepeat, again.offsets.lowerBound == last.offset else {
      wrong("event \(last.offset) was appended again as \(again.offsets)")
    }
  }

  private mutating func beginStream() async throws {
    let stream = "n\(round)-\(number)-\(count)"
    try await append([event(stream, 0, of: 1)], [stream: 0])
  }

  private mutating func appendOnce() async throws {
    var event = event("i\(number)", 0, of: 1)
    event.id = EventID(high: random.next(), low: random.next())
    let first = try await store.append(Append(event))
    guard !first.isRepeat else { wrong("a new id was taken for one that is known") }
    say("ack \(first.offsets.lowerBound) 1 \(mark)")
    guard Bool.random(using: &random) else { return }
    let second = try await store.append(Append(event))
    guard second.isRepeat, second.offsets == first.offsets else {
      wrong("event \(first.offsets.lowerBound) was appended again as \(second.offsets)")
    }
  }

  /// All tasks want the same stream's next version; one gets it.
  private mutating func contend() async throws {
    let version = try store.reader.streamVersion("shared")
    do {
      try await append([event("shared", 0, of: 1)], ["shared": version])
    } catch LogStoreError.conflict(_, _, let actual) {
      guard actual > version else { wrong("a conflict at version \(actual), expected \(version)") }
    }
  }

  private func append(
    _ events: [NewEvent], _ expected: [String: UInt64], cursor checkpoint: UInt64? = nil
  ) async throws {
    let appended = try await store.append(
      Append(
        events, conditions: StreamConditions(expected.map { ($0, $1 == 0 ? .noStream : .version($1)) }),
        cursors: checkpoint.map { [CursorCommit(name: "c\(number)", checkpoint: $0)] } ?? []))
    guard appended.offsets.count == events.count else { wrong("\(events.count) events got \(appended.offsets)") }
    // The conditions held: each stream goes on from where it was expected to be.
    var versions = expected
    let next = events.map { event in
      versions[event.stream, default: 0] += 1
      return versions[event.stream, default: 0]
    }
    guard appended.versions == next else { wrong("\(mark) got versions \(appended.versions), expected \(next)") }
    say("ack \(appended.offsets.lowerBound) \(events.count) \(mark)")
  }

  private mutating func event(_ stream: String, _ index: Int, of count: Int) -> NewEvent {
    let filler = String(repeating: "x", count: Int.random(in: 0...400, using: &random))
    return NewEvent(stream: stream, type: "Marked", payload: Array("\(mark)/\(index)/\(count)/\(filler)".utf8))
  }
}

private struct Generator: RandomNumberGenerator, Sendable {
  var state: UInt64

  mutating func next() -> UInt64 {
    state &+= 0x9E37_79B9_7F4A_7C15
    var value = state
    value = (value ^ value >> 30) &* 0xBF58_476D_1CE4_E5B9
    value = (value ^ value >> 27) &* 0x94D0_49BB_1331_11EB
    return value ^ value >> 31
  }
}

private func guarded(_ body: () async throws -> Void) async {
  do {
    try await body()
  } catch {
    wrong("\(error)")
  }
}

private func say(_ line: String) {
  let bytes = Array((line + "\n").utf8)
  guard bytes.withUnsafeBytes({ write(STDOUT_FILENO, $0.baseAddress, $0.count) }) == bytes.count else { exit(4) }
}

private func wrong(_ text: String) -> Never {
  say("wrong \(text)")
  _exit(3)
}
