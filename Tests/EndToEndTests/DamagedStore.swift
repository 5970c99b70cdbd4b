import Foundation

/// What a whole store holds, kept in memory, to be damaged in many ways: its files, its events as `dump` prints them, where
/// its frames are, and older copies of its files.
struct WholeStore: Sendable {
  enum Kind: String, CaseIterable, Sendable {
    /// Closed cleanly.
    case closed
    /// Its last writer was killed.
    case killed
    /// Closed cleanly, with index files that were merged.
    case merged
  }

  struct Frame: Sendable {
    var file: String
    var bytes: Range<Int>
    var offsets: Range<Int>
  }

  /// Lines as a command prints them. Compared as a whole, for there are thousands of them in thousands of rounds.
  struct Printed: Sendable {
    private(set) var bytes: [UInt8] = []
    /// Where each line ends.
    private(set) var ends: [Int] = []

    var count: Int { ends.count }

    mutating func append(_ line: ArraySlice<UInt8>) {
      bytes += line
      bytes.append(UInt8(ascii: "\n"))
      ends.append(bytes.count)
    }

    /// How many lines an output has if it is these from one on, as far as it goes; nil if it is anything else.
    func count(in output: [UInt8], from first: Int = 0) -> Int? {
      let start = first == 0 ? 0 : ends[first - 1]
      guard output.count <= bytes.count - start else { return nil }
      let isEqual = output.withUnsafeBytes { output in
        bytes.withUnsafeBytes { bytes in
          guard let one = output.baseAddress, let other = bytes.baseAddress else { return output.isEmpty }
          return memcmp(one, other + start, output.count) == 0
        }
      }
      guard isEqual else { return nil }
      var (low, high) = (first, ends.count)
      while low < high {
        let middle = (low + high) / 2
        if ends[middle] <= start + output.count { low = middle + 1 } else { high = middle }
      }
      return (low == 0 ? 0 : ends[low - 1]) == start + output.count ? low - first : nil
    }
  }

  let kind: Kind
  let files: [String: [UInt8]]
  /// The files as they were at earlier moments, oldest first.
  let older: [[String: [UInt8]]]
  /// What `dump` prints, and `dump --stream` of each stream.
  let events: Printed
  let streams: [String: Printed]
  let frames: [Frame]

  static func make(_ kind: Kind) async throws -> WholeStore {
    let store = try StoreUnderTest()
    var older: [[String: [UInt8]]] = []
    // With a segment that is still the last at the second copy, so that there are older copies of it, longer and shorter.
    let steps = kind == .merged ? [300, 420, 1900] : [300, 60, 500]
    var count = 0
    for step in steps {
      if count > 0 { older.append(try store.content()) }
      try await store.fill(step, from: count)
      count += step
    }
    if kind == .killed {
      older.append(try store.content())
      try await store.fillAndKill(24, from: count)
    }
    let dumped = try await store.run("dump")
    guard dumped.exitCode == 0 else { throw HarnessError("a whole store can't be read: \(dumped.errors)") }
    var files: [String: [UInt8]] = [:]
    for name in try store.files() where name != "lock" { files[name] = try store.bytes(name) }
    var events = Printed()
    var streams: [String: Printed] = [:]
    for line in dumped.outputLines {
      events.append(line)
      streams[String(decoding: try DumpedEvent(line: line).stream, as: UTF8.self), default: Printed()].append(line)
    }
    return WholeStore(
      kind: kind, files: files, older: older, events: events, streams: streams,
      frames: files.keys.sorted().filter { $0.hasSuffix(".log") }.flatMap { frames($0, files[$0] ?? []) })
  }

  private static func frames(_ name: String, _ bytes: [UInt8]) -> [Frame] {
    func number(_ position: Int, _ count: Int) -> Int {
      (0..<count).reduce(0) { $0 | Int(bytes[position + $1]) << (8 * $1) }
    }
    var frames: [Frame] = []
    var position = 4096
    while position + 48 <= bytes.count, number(position + 4, 4) >= 48 {
      let first = number(position + 8, 8)
      frames.append(
        Frame(
          file: name, bytes: position..<position + number(position + 4, 4),
          offsets: first..<first + number(position + 24, 4)))
      position += number(position + 4, 4)
    }
    return frames
  }

  /// Whether all that was written of a frame is in its place among other files.
  func isWhole(_ frame: Frame, in files: [String: [UInt8]]) -> Bool {
    guard let now = files[frame.file], now.count >= frame.bytes.upperBound, let then = self.files[frame.file] else {
      return false
    }
    return now[frame.bytes] == then[frame.bytes]
  }

  var segments: [String] { files.keys.filter { $0.hasSuffix(".log") }.sorted() }
}

/// One thing, or several, that happened to the files of a store.
struct Damaging: CustomStringConvertible {
  enum Way: CaseIterable {
    case bit, byte, sector, zeroedSector, zeroedPage, swappedBlocks, swappedFiles, cut, cutPages, longer, deleted,
      olderFile
    case allButOneOlder, allOlder
  }

  private(set) var files: [String: [UInt8]]
  private(set) var description = ""
  /// All the store's files were put back together to what they were at one moment: nothing is left that could tell.
  private(set) var isAllOlder = false
  private let whole: WholeStore

  init(_ whole: WholeStore, using random: inout SeededGenerator) {
    self.whole = whole
    files = whole.files
    // As a rule one.
    for _ in 0..<(Int.random(in: 0..<5, using: &random) == 0 ? 2 : 1) { apply(&random) }
  }

  /// Names of files that are not what they were.
  var changed: Set<String> {
    Set(whole.files.keys).union(files.keys).filter { files[$0] != whole.files[$0] }
  }

  private mutating func apply(_ random: inout SeededGenerator) {
    guard let way = Way.allCases.randomElement(using: &random) else { return }
    // Segments as often as all the rest.
    let names = files.keys.sorted()
    let segments = names.filter { $0.hasSuffix(".log") }
    let pool = Bool.random(using: &random) || segments.isEmpty ? names : segments
    guard let name = pool.randomElement(using: &random), var bytes = files[name] else { return }
    // In what is written as a rule; sometimes in what is not.
    let used = Int.random(in: 0..<10, using: &random) == 0 ? bytes.count : (bytes.lastIndex { $0 != 0 } ?? 0) + 1
    let position = Int.random(in: 0..<max(used, 1), using: &random)
    description += "\(description.isEmpty ? "" : ", ")\(way) \(name) @\(position)"
    switch way {
    case .bit: if position < bytes.count { bytes[position] ^= 1 << UInt8.random(in: 0..<8, using: &random) }
    case .byte: if position < bytes.count { bytes[position] = UInt8.random(in: 0...255, using: &random) }
    case .sector:
      for at in range(position, 512, bytes) { bytes[at] = UInt8.random(in: 0...255, using: &random) }
    case .zeroedSector: for at in range(position, 512, bytes) { bytes[at] = 0 }
    case .zeroedPage: for at in range(position, 4096, bytes) { bytes[at] = 0 }
    case .swappedBlocks:
      let unit = Bool.random(using: &random) ? 512 : 4096
      guard let other = pool.randomElement(using: &random), let source = files[other] else { return }
      let (here, there) = (
        range(position, unit, bytes), range(Int.random(in: 0..<max(source.count, 1), using: &random), unit, source)
      )
      guard here.count == unit, there.count == unit else { return }
      let (one, two) = (Array(bytes[here]), Array(source[there]))
      bytes.replaceSubrange(here, with: two)
      files[name] = bytes
      files[other]?.replaceSubrange(there, with: one)
      return
    case .swappedFiles:
      guard let other = pool.randomElement(using: &random), let source = files[other] else { return }
      files[other] = bytes
      bytes = source
    case .cut: bytes.removeSubrange(position...)
    case .cutPages: bytes.removeSubrange((position & ~4095)...)
    case .longer:
      bytes += (0..<Int.random(in: 1..<9000, using: &random)).map { _ in UInt8.random(in: 0...255, using: &random) }
    case .deleted:
      files[name] = nil
      return
    case .olderFile:
      guard let old = whole.older.compactMap({ $0[name] }).randomElement(using: &random) else { return }
      bytes = old
    case .allButOneOlder, .allOlder:
      guard let old = whole.older.randomElement(using: &random) else { return }
      files = old
      // Nobody's notice of it is among them, as on a machine whose files were put back.
      isAllOlder = way == .allOlder
      if way == .allButOneOlder { files[name] = bytes }
      return
    }
    files[name] = bytes
  }

  private func range(_ position: Int, _ unit: Int, _ bytes: [UInt8]) -> Range<Int> {
    position / unit * unit..<min(position / unit * unit + unit, bytes.count)
  }
}
