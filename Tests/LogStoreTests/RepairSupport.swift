import Foundation
import Testing

@testable import LogStore

/// A store with its events, and where each of them stands, to be damaged in copies.
struct DamageableStore {
  struct RecordLocation {
    var file: String
    var record: Range<Int>
    var frame: Int
  }

  let directory: TemporaryDirectory
  /// Another one's files, and older ones of this one.
  let foreign: TemporaryDirectory
  let older: TemporaryDirectory
  var events: [Event] = []
  var records: [RecordLocation] = []
  var cursors: [String: UInt64] = [:]
  let isClosed: Bool

  /// - Parameter isClosed: otherwise it is as a writer that died has left it.
  init(_ generator: inout SeededGenerator, isClosed: Bool, isIndexed: Bool, count: Int = 1200) async throws {
    self.isClosed = isClosed
    directory = TemporaryDirectory()
    foreign = TemporaryDirectory()
    older = TemporaryDirectory()
    let made = TemporaryDirectory()
    try await Self.fill(foreign.path, &generator, count: count / 2, isIndexed: true) { _ in }
    try await Self.fill(made.path, &generator, count: count / 2, isIndexed: isIndexed) { _ in }
    try FileManager.default.copyItem(atPath: made.path, toPath: older.path)
    // While it is open the files are what a crash would leave.
    try await Self.fill(made.path, &generator, count: count / 2, isIndexed: isIndexed) { [directory] path in
      if !isClosed { try copyStore(path, to: directory.path) }
    }
    if isClosed { try FileManager.default.copyItem(atPath: made.path, toPath: directory.path) }
    if !isIndexed {
      for name in directory.names(".idx") { try FileManager.default.removeItem(atPath: directory.file(name)) }
    }
    let reader = try LogReader.open(made.path)
    events = try reader.events(from: 0, limit: .max)
    cursors = Dictionary(uniqueKeysWithValues: try reader.cursors().map { ($0.name, $0.checkpoint) })
    try findRecords()
  }

  static func fill(
    _ path: String, _ generator: inout SeededGenerator, count: Int, isIndexed: Bool,
    atEnd: (String) throws -> Void
  ) async throws {
    let store = try LogStore.open(path, options: smallSegments())
    var left = count
    while left > 0 {
      let size = min(left, Int.random(in: 1...12, using: &generator))
      var events: [NewEvent] = []
      for _ in 0..<size {
        let stream = "stream-\(Int.random(in: 0..<60, using: &generator))"
        let payload = [UInt8](
          repeating: UInt8.random(in: 0...255, using: &generator), count: .random(in: 0...600, using: &generator))
        events.append(
          NewEvent(
            stream: stream, type: "Happened", payload: payload,
            id: Bool.random(using: &generator) ? EventID(high: generator.next(), low: generator.next()) : nil))
      }
      let end = store.reader.endOffset
      let cursors =
        Int.random(in: 0..<4, using: &generator) == 0 ? [CursorCommit(name: "reader-\(size % 3)", checkpoint: end)] : []
      try await store.append(Append(events, cursors: cursors))
      left -= size
    }
    if isIndexed { try await store.waitUntilIndexed() }
    try atEnd(path)
    try await store.close()
  }

  private mutating func findRecords() throws {
    let catalogID = try #require(try SalvageSource(directory.path, disk: RealDisk())).store.storeID
    for name in directory.names(".log") {
      let base = try #require(FileName.baseOffset(name, suffix: ".log"))
      let segment = try Segment.open(directory.file(name), baseOffset: base, storeID: catalogID, disk: RealDisk())
      var next = segment.start
      while let header = try? segment.checkFrame(next, visit: { _ in }) {
        _ = try segment.checkFrame(next) { record in
          if record.kind == .event {
            records.append(RecordLocation(file: name, record: record.position..<record.end, frame: next.position))
          }
        }
        next.advance(past: header)
      }
    }
    #expect(records.count == events.count)
  }

  /// Whether an event's bytes are still where they were, or in the file that took the name of theirs.
  func isIntact(_ offset: Int, in damaged: [String: [UInt8]]) -> Bool {
    let location = records[offset]
    guard let original = originals[location.file] else { return false }
    let wanted = original[location.record]
    return damaged.values.contains { bytes in
      bytes.count >= location.record.upperBound && bytes[location.record].elementsEqual(wanted)
    }
  }

  var originals: [String: [UInt8]] { Self.contents(directory.path) }

  static func contents(_ path: String) -> [String: [UInt8]] {
    var files: [String: [UInt8]] = [:]
    for name in (try? FileManager.default.contentsOfDirectory(atPath: path)) ?? [] {
      files[name] = FileManager.default.contents(atPath: path + "/" + name).map(Array.init)
    }
    return files
  }
}

/// A change to the files of a store, as disks, people and programs make them.
enum RandomDamage: CaseIterable {
  case bit, byte, zeroedSector, randomSector, zeroedPage, swappedBlocks, swappedFiles, cut, emptied, longer, deleted
  case olderSegment, foreignSegment, foreignSmallFile, zeroedHeader, range

  /// Applies it; says what it did.
  func apply(to files: inout [String: [UInt8]], of store: DamageableStore, _ generator: inout SeededGenerator) -> String
  {
    let ignored: Set = [FileName.lock, FileName.tail]
    let names = files.keys.filter { !ignored.contains($0) && !(files[$0] ?? []).isEmpty }.sorted()
    let segments = names.filter { $0.hasSuffix(".log") }
    guard
      let name = (Int.random(in: 0..<4, using: &generator) == 0 ? names : segments).randomElement(using: &generator),
      let bytes = files[name], let segment = segments.randomElement(using: &generator)
    else { return "nothing left" }
    // Most of the space of the last segment is empty.
    let used = max(bytes.lastIndex { $0 != 0 } ?? 0, 1)
    let at = Int.random(in: 0..<used, using: &generator)
    func overwrite(_ start: Int, _ count: Int, _ value: () -> UInt8) {
      for position in start..<min(start + count, bytes.count) { files[name]?[position] = value() }
    }
    switch self {
    case .bit: files[name]?[at] ^= 1 << UInt8.random(in: 0..<8, using: &generator)
    case .byte: files[name]?[at] = bytes[at] &+ UInt8.random(in: 1...255, using: &generator)
    case .zeroedSector: overwrite(at / 512 * 512, 512) { 0 }
    case .randomSector: overwrite(at / 512 * 512, 512) { UInt8.random(in: 0...255, using: &generator) }
    case .zeroedPage: overwrite(at / 4096 * 4096, 4096) { 0 }
    case .zeroedHeader: overwrite(0, 4096) { 0 }
    case .range:
      overwrite(at, Int.random(in: 1...9000, using: &generator)) { UInt8.random(in: 0...255, using: &generator) }
    case .swappedBlocks:
      let other = Int.random(in: 0..<used, using: &generator) / 512 * 512
      let start = at / 512 * 512
      for position in 0..<512 where start + position < bytes.count && other + position < bytes.count {
        files[name]?[start + position] = bytes[other + position]
        files[name]?[other + position] = bytes[start + position]
      }
    case .swappedFiles: (files[name], files[segment]) = (files[segment], files[name])
    case .cut: files[name] = Array(bytes.prefix(at))
    case .emptied: files[name] = []
    case .longer:
      files[name] =
        bytes + (0..<Int.random(in: 1...5000, using: &generator)).map { _ in generator.next() > 1 << 63 ? 1 : 0 }
    case .deleted: files[name] = nil
    case .olderSegment:
      let older = DamageableStore.contents(store.older.path)
      guard let old = older.keys.filter({ $0.hasSuffix(".log") }).sorted().randomElement(using: &generator) else {
        break
      }
      files[old] = older[old]
      return "\(self) \(old)"
    case .foreignSegment:
      let foreign = DamageableStore.contents(store.foreign.path)
      files[segment] =
        foreign.filter { $0.key.hasSuffix(".log") }.sorted { $0.key < $1.key }.randomElement(using: &generator)?.value
      return "\(self) \(segment)"
    case .foreignSmallFile:
      let small = Bool.random(using: &generator) ? FileName.store : FileName.clean
      files[small] = DamageableStore.contents(store.foreign.path)[small]
      return "\(self) \(small)"
    }
    return "\(self) \(name) @\(at)"
  }
}

func write(_ files: [String: [UInt8]], to directory: TemporaryDirectory) throws {
  try FileManager.default.createDirectory(atPath: directory.path, withIntermediateDirectories: true)
  for (name, bytes) in files { try Data(bytes).write(to: URL(fileURLWithPath: directory.file(name))) }
}
