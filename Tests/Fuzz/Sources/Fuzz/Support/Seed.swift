import Dispatch
import Glibc
import Synchronization

@testable import LogStore

/// A store that is whole, whose files the inputs change.
final class Seed: Sendable {
  static let directory = "/store"

  enum Shape: CaseIterable {
    /// Many small events, appended several at a time, with ids, metadata and cursors; closed cleanly.
    case dense
    /// Few large events over many segments, whose index files were merged; closed cleanly.
    case merged
    /// As a killed process leaves it.
    case killed
  }

  let shape: Shape
  /// By name, without `lock`.
  let files: [String: [UInt8]]
  /// The same, ready to be read by any number of inputs; nobody writes them.
  let memory: [String: GuardedMemory]
  let names: [String]
  let events: [Event]
  let fields: [String: [Fields.Field]]
  let frames: [Frame]
  private let streams: [String: [Event]]

  struct Frame: Sendable {
    var file: String
    var bytes: Range<Int>
    var offsets: Range<UInt64>
  }

  static let all: [Seed] = Shape.allCases.map(Seed.init)

  init(_ shape: Shape) {
    self.shape = shape
    let disk = MemoryDisk()
    blocking { try await Self.fill(disk, shape) }
    var files: [String: [UInt8]] = [:]
    for (path, memory) in disk.files where !path.hasSuffix(".tmp") && !path.hasSuffix("/lock") {
      files[String(path.dropFirst(Self.directory.utf8.count + 1))] = Array(memory.bytes)
    }
    self.files = Self.withFixedIdentity(files)
    memory = self.files.mapValues(GuardedMemory.init)
    names = self.files.keys.sorted()
    frames = self.files.keys.sorted().filter { $0.hasSuffix(".log") }.flatMap { [files = self.files] name in
      Self.frames(name, files[name] ?? [])
    }
    // Read from the changed files: an event without a stored id has one made of the store's.
    let changed = MemoryDisk(files: memory.withPaths(Self.directory), directories: [Self.directory])
    do throws(LogStoreError) {
      var verification = Verification(directory: Self.directory, disk: changed, progress: nil)
      try verification.run()
      promise(verification.report.findings.isEmpty, "a seed is sound: \(verification.report.findings)")
      let (follower, commitPoint, recovery) = try Follower.open(Self.directory, disk: changed, follows: false)
      events = try LogReader(commitPoint: commitPoint, follower: follower, recovery: recovery).events(
        from: 0, limit: .max)
    } catch {
      broken("a seed can be read: \(error)")
    }
    fields = Dictionary(uniqueKeysWithValues: self.files.map { ($0.key, Fields.of($0.key, $0.value)) })
    streams = Dictionary(grouping: events, by: \.stream)
  }

  /// What tells a segment's file from another of its name.
  func headerChecksum(of name: String) -> UInt32 {
    files[name]?.withUnsafeBytes { $0.integer(at: SegmentHeader.byteCount - 4) } ?? 0
  }

  var disk: MemoryDisk { MemoryDisk(files: memory.withPaths(Self.directory), directories: [Self.directory]) }

  private static func fill(_ disk: MemoryDisk, _ shape: Shape) async throws {
    var options = LogStore.Options()
    options.segmentBytes = 64 << 10
    let store = try LogStore.open(directory, options: options, disk: disk)
    var sent: UInt64 = 0
    for number in 0..<(shape == .merged ? 110 : 110) {
      let count = shape == .merged ? 1 : number % 4 + 1
      let events = (0..<count).map { index in
        let serial = sent + UInt64(index)
        return NewEvent(
          stream: serial % 5 == 0 ? "busy" : "stream-\(serial % 41)", type: serial % 3 == 0 ? "T" : "Happened",
          payload: payload(serial, shape == .merged ? 5000 : Int(serial * 37 % 400)),
          metadata: serial % 7 == 0 ? Array("{\"n\":\(serial)}".utf8) : [],
          id: serial % 4 == 0 ? EventID(high: serial &* 0x9E37_79B9, low: serial << 8 | 1) : nil)
      }
      sent += UInt64(count)
      let cursors = number % 11 == 0 ? [CursorCommit(name: "c\(number % 3)", checkpoint: sent - 1)] : []
      _ = try await store.append(Append(events, cursors: cursors))
    }
    try await store.waitUntilIndexed()
    if shape == .killed {
      store.abandon()
      while disk.state.withLock({ $0.locked.contains(join(directory, FileName.lock)) }) { usleep(100) }
    } else {
      try await store.close()
    }
  }

  /// Not compressible, so that index blocks and their like are met as they are, and different everywhere.
  private static func payload(_ serial: UInt64, _ byteCount: Int) -> [UInt8] {
    var state = serial
    return (0..<byteCount).map { _ in
      state = mixed(state &+ 0x9E37_79B9_7F4A_7C15)
      return UInt8(truncatingIfNeeded: state >> 24)
    }
  }

  /// The same store id each time, so that an input does the same in every process.
  private static func withFixedIdentity(_ files: [String: [UInt8]]) -> [String: [UInt8]] {
    let id = Array("0123456789abcdef".utf8)
    var changed = files
    var chain: UInt32 = 0
    for name in files.keys.sorted() where name.hasSuffix(".log") {
      changed[name]?.replaceSubrange(16..<32, with: id)
      changed[name]?.withUnsafeMutableBytes { $0.set(chain, at: 64) }
      chain = Resealing.segment(&changed[name, default: []], chained: true)
    }
    var chains: [UInt64: UInt32] = [:]
    for (name, bytes) in changed where name.hasSuffix(".log") {
      bytes.withUnsafeBytes { chains[$0.integer(at: 40)] = $0.integer(at: 64) }
    }
    for name in files.keys where !name.hasSuffix(".log") && name != FileName.tail {
      changed[name]?.replaceSubrange(16..<32, with: id)
      changed[name]?.withUnsafeMutableBytes { bytes in
        if name == FileName.clean { bytes.set(chain, at: 12) }
        guard name.hasSuffix(".idx") else { return }
        for number in 0..<Int(UnsafeRawBufferPointer(bytes).integer(at: 12, as: UInt32.self)) {
          let at = IndexLayout.headerByteCount + number * IndexLayout.segmentByteCount
          let base: UInt64 = UnsafeRawBufferPointer(bytes).integer(at: at)
          bytes.set(chains[base] ?? 0, at: at + 12)
        }
      }
      Resealing.file(name, &changed[name, default: []])
    }
    return changed
  }

  private static func frames(_ name: String, _ bytes: [UInt8]) -> [Frame] {
    bytes.withUnsafeBytes { bytes in
      var frames: [Frame] = []
      var position = SegmentHeader.byteCount
      while position + FrameHeader.byteCount <= bytes.count {
        let header = FrameHeader(trusted: bytes, at: position)
        if header.byteCount == 0 { break }
        frames.append(
          Frame(
            file: name, bytes: position..<position + header.byteCount, offsets: header.firstOffset..<header.endOffset))
        position += header.byteCount
      }
      return frames
    }
  }

  /// Events of a stream, in order.
  func events(of stream: String) -> [Event] { streams[stream] ?? [] }
}

extension [String: GuardedMemory] {
  func withPaths(_ directory: String) -> [String: GuardedMemory] {
    Dictionary(uniqueKeysWithValues: map { (join(directory, $0.key), $0.value) })
  }
}

/// Runs what is asynchronous to its end; an error is a mistake of the harness.
func blocking<Value: Sendable>(_ body: @escaping @Sendable () async throws -> Value) -> Value {
  let done = DispatchSemaphore(value: 0)
  let result = Mutex<Result<Value, any Error>?>(nil)
  Task.detached {
    let value: Result<Value, any Error>
    do { value = .success(try await body()) } catch { value = .failure(error) }
    result.withLock { $0 = value }
    done.signal()
  }
  done.wait()
  switch result.withLock({ $0 }) {
  case .success(let value): return value
  case .failure(let error): broken("nothing is thrown here: \(error)")
  case nil: broken("a task that has ended has a result")
  }
}
