import Foundation
import Testing

/// What was said and done up to a moment at which the power is cut, and so what must be found afterwards.
struct CrashExpectation: Sendable {
  /// What the store held before all this.
  var base: [DumpedEvent] = []
  /// Offset and payload of each `ok`.
  private(set) var acknowledged: [UInt64: [UInt8]] = [:]
  /// Every payload that was ever given to a writer.
  private(set) var asked: Set<[UInt8]> = []
  /// A backup, and a store restored, up to here was reported as done.
  var backedUp = 0
  var restored: Int?

  /// The input of one run, and how far it is answered.
  private var payloads: [[UInt8]] = []
  private var answered = 0
  private var answers: [UInt8] = []

  /// Lines for `append --batch`, marked so that a batch is known again: round, batch, index, batch size.
  mutating func input(
    round: Int, batches: Int, batch: Int, fillerMax: Int, using random: inout SeededGenerator
  ) -> [UInt8] {
    (payloads, answered, answers) = ([], 0, [])
    var input: [UInt8] = []
    for number in 0..<batches {
      for index in 0..<batch {
        let filler = String(repeating: "x", count: Int.random(in: 0...fillerMax, using: &random))
        let payload = Array("r\(round)/b\(number)/\(index)/\(batch)/\(filler)".utf8)
        payloads.append(payload)
        asked.insert(payload)
        input += Array("s\(number % 5)-\(index % 3)\tMarked\t".utf8) + payload + [UInt8(ascii: "\n")]
      }
    }
    return input
  }

  mutating func acknowledge(_ offset: UInt64, _ payload: [UInt8]) { acknowledged[offset] = payload }

  /// Standard output of a run, a piece more: what a writer acknowledges, and what a reader serves, is durable.
  mutating func heard(_ output: some Sequence<UInt8>) throws {
    answers += output
    while let end = answers.firstIndex(of: UInt8(ascii: "\n")) {
      let line = String(decoding: answers[..<end], as: UTF8.self)
      answers.removeSubrange(...end)
      if line.hasPrefix("backed up events 0..<") {
        backedUp = Int(line.dropFirst("backed up events 0..<".count).prefix { $0.isNumber }) ?? 0
      } else if line.hasPrefix("restored events 0..<") {
        restored = Int(line.dropFirst("restored events 0..<".count).prefix { $0.isNumber })
      } else if line.hasPrefix("ok "), let offset = UInt64(line.dropFirst(3)), answered < payloads.count {
        acknowledged[offset] = payloads[answered]
        answered += 1
      } else if let event = try? DumpedEvent(line: Array(line.utf8)[...]) {
        acknowledged[event.offset] = event.payload
      }
    }
  }

  /// What a store holds after the power cut.
  func expect(_ events: [DumpedEvent], _ comment: Comment) {
    #expect(events.indices.allSatisfy { events[$0].offset == UInt64($0) }, "offsets have gaps: \(comment)")
    #expect(events.starts(with: base), "what was there before has changed: \(comment)")
    for (offset, payload) in acknowledged {
      let isThere = offset < UInt64(events.count) && events[Int(offset)].payload == payload
      #expect(isThere, "ok \(offset) is lost, of \(events.count) events: \(comment)")
      if !isThere { break }
    }
    var versions: [[UInt8]: UInt64] = [:]
    var sizes: [ArraySlice<UInt8>: Int] = [:]
    for event in events {
      versions[event.stream, default: 0] += 1
      #expect(event.version == versions[event.stream], "version \(event.version) at \(event.offset): \(comment)")
      guard event.offset >= UInt64(base.count) else { continue }
      #expect(asked.contains(event.payload), "event \(event.offset) was never appended: \(comment)")
      let fields = event.payload.split(separator: UInt8(ascii: "/"), omittingEmptySubsequences: false)
      guard fields.count == 5, let size = Int(String(decoding: fields[3], as: UTF8.self)) else { continue }
      let mark = event.payload[..<fields[1].endIndex]
      sizes[mark, default: 0] += 1
      if sizes[mark] == size { sizes[mark] = nil }
    }
    #expect(sizes.isEmpty, "half a batch: \(sizes.keys.map { String(decoding: $0, as: UTF8.self) }): \(comment)")
  }

  /// What a store, found after the power cut, must stand: it opens, `verify` finds nothing, all that was acknowledged is
  /// there, and it can be written to.
  ///
  /// - Parameter readsFirst: before the first writer opens it.
  func expect(_ store: StoreUnderTest, readsFirst: Bool, _ comment: Comment) async throws {
    guard FileManager.default.fileExists(atPath: store.file("store")) else {
      // The power was cut while the store was made: nothing was acknowledged, and it is made anew.
      #expect(acknowledged.isEmpty && base.isEmpty, "the store is gone: \(comment)")
      let made = try await store.run("append", input: "s\tT\tfirst\n")
      #expect(made.text == "ok 0\n", "\(comment): \(made.errors)")
      return
    }
    func look() async throws -> [DumpedEvent] {
      let verified = try await store.run("verify")
      #expect(verified.exitCode == 0, "verify: \(verified.text) \(verified.errors) \(comment)")
      let dumped = try await store.run("dump")
      #expect(dumped.exitCode == 0, "dump: \(dumped.errors) \(comment)")
      return try dumped.outputLines.map(DumpedEvent.init(line:))
    }
    var before: [DumpedEvent]?
    if readsFirst {
      let events = try await look()
      expect(events, comment)
      before = events
    }
    let again = try await store.run("append", "--segment-size", "64KiB", input: "s\tT\tagain\n")
    let offset = Int(again.text.dropFirst(3).dropLast())
    #expect(again.exitCode == 0 && offset != nil, "append: \(again.text) \(again.errors) \(comment)")
    guard let offset else { return }
    if let before { #expect(offset == before.count, comment) }
    let after = try await look()
    #expect(after.count == offset + 1 && after.last?.payload == Array("again".utf8), comment)
    expect(Array(after.dropLast()), comment)
    if let before { #expect(after.starts(with: before), "what had been read has changed: \(comment)") }
  }
}
