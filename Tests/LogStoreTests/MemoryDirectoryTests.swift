import Testing

@testable import LogStore

@Suite("A store in memory")
struct MemoryDirectoryTests {
  private let memory = MemoryDirectory()

  private var options: LogStore.Options {
    var options = LogStore.Options()
    options.segmentBytes = 1 << 16
    return options
  }

  @Test("it holds events, conditions, ids and cursors over many segments, and when it is opened again")
  func reopened() async throws {
    let id = EventID(high: 1, low: 2)
    for round in 0..<3 {
      let store = try LogStore.open(in: memory, options: options)
      #expect(store.reader.endOffset == UInt64(round * 500))
      for number in 0..<500 {
        var append = Append(NewEvent(stream: "s", type: "T", payload: Array(repeating: 7, count: 400)))
        append.conditions["s"] = number == 0 && round == 0 ? .noStream : .version(UInt64(round * 500 + number))
        append.cursors = [CursorCommit(name: "c", checkpoint: UInt64(round * 500 + number))]
        if number == 0, round == 0 { append.events[0].id = id }
        _ = try await store.append(append)
      }
      await #expect(throws: LogStoreError.self) {
        var append = Append(NewEvent(stream: "s", type: "T", payload: []))
        append.conditions["s"] = .noStream
        _ = try await store.append(append)
      }
      try await store.waitUntilIndexed()
      try await store.close()
    }
    let store = try LogStore.open(in: memory, options: options)
    #expect(try store.reader.stream("s").count == 1_500)
    #expect(try store.reader.cursor("c") == 1_499)
    let repeated = NewEvent(stream: "s", type: "T", payload: Array(repeating: 7, count: 400), id: id)
    let appended = try await store.append(Append(repeated, expecting: .noStream))
    #expect(appended.isRepeat && appended.offsets == 0..<1)
    #expect(store.recovery.wasClosedCleanly)
    #expect(try memory.disk.list("/store").filter { $0.hasSuffix(".log") }.count > 5)
    try await store.close()
  }

  @Test("one writer at a time, and what was appended without a close is there")
  func released() async throws {
    var store: LogStore? = try LogStore.open(in: memory, options: options)
    _ = try await store?.append(Append(NewEvent(stream: "s", type: "T", payload: [1])))
    #expect { try LogStore.open(in: memory, options: options) } throws: {
      if case LogStoreError.locked = $0 { true } else { false }
    }
    store = nil
    var again: LogStore?
    for _ in 0..<1_000 where again == nil {
      again = try? LogStore.open(in: memory, options: options)
      if again == nil { try await Task.sleep(for: .milliseconds(10)) }
    }
    #expect(again?.reader.endOffset == 1)
    try await again?.close()
  }

  @Test("two directories are two stores, and nothing is left in the file system")
  func separate() async throws {
    let (one, other) = (try LogStore.open(in: memory), try LogStore.open(in: MemoryDirectory()))
    _ = try await one.append(Append(NewEvent(stream: "s", type: "T", payload: [1])))
    #expect(other.reader.endOffset == 0)
    #expect(fileStatus(at: "/store") == nil)
    try await one.close()
    try await other.close()
  }
}
