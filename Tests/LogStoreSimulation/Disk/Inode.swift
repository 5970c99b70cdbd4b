import CLinux
import Glibc
import Synchronization

@testable import LogStore

/// Zeroed memory of a fixed size.
///
/// Sendable: what is in it is guarded by the lock of the machine; mappings read it without, and only where it is written no
/// more, as LogStore promises.
final class Block: @unchecked Sendable {
  let bytes: UnsafeMutableRawBufferPointer

  init(byteCount: Int) {
    bytes = UnsafeMutableRawBufferPointer(start: calloc(1, max(byteCount, 1)), count: byteCount)
  }

  deinit {
    free(bytes.baseAddress)
  }

  func zero(_ range: Range<Int>) {
    UnsafeMutableRawBufferPointer(rebasing: bytes[range]).initializeMemory(as: UInt8.self, repeating: 0)
  }

  func copy(_ range: Range<Int>, from source: Block) {
    guard !range.isEmpty else { return }
    UnsafeMutableRawBufferPointer(rebasing: bytes[range]).copyMemory(
      from: UnsafeRawBufferPointer(rebasing: source.bytes[range]))
  }
}

/// A set of sectors of a file.
struct SectorSet: Sendable {
  private var words: [UInt64] = []

  var isEmpty: Bool { words.allSatisfy { $0 == 0 } }

  mutating func insert(_ sectors: ClosedRange<Int>) {
    while words.count <= sectors.upperBound / 64 { words.append(0) }
    for word in sectors.lowerBound / 64...sectors.upperBound / 64 {
      let from = max(sectors.lowerBound - word * 64, 0)
      let to = min(sectors.upperBound - word * 64, 63)
      words[word] |= (UInt64.max << UInt64(from)) & (UInt64.max >> UInt64(63 - to))
    }
  }

  mutating func insert(_ sector: Int) { insert(sector...sector) }

  mutating func remove(_ sectors: SectorSet) {
    for word in words.indices where word < sectors.words.count { words[word] &= ~sectors.words[word] }
  }

  mutating func removeAll() {
    for word in words.indices { words[word] = 0 }
  }

  func forEach(_ body: (Int) -> Void) {
    for index in words.indices {
      var word = words[index]
      while word != 0 {
        body(index * 64 + word.trailingZeroBitCount)
        word &= word - 1
      }
    }
  }
}

/// A file whatever its name: `memory` is what the kernel shows, `durable` what a power cut leaves for sure.
///
/// Sendable: all of it is guarded by the lock of the machine that it is in.
final class Inode: @unchecked Sendable {
  static let sectorByteCount = 512
  /// What the kernel reads from the disk at a time.
  static let pageByteCount = 4096

  private(set) var memory: Block
  var byteCount = 0
  private(set) var durable: Block
  private(set) var durableByteCount = 0
  /// Written since the last sync.
  private(set) var dirty = SectorSet()
  /// Sectors that the kernel takes for written, since a sync that should have written them has failed; the disk does not
  /// have them.
  private(set) var lost = SectorSet()
  /// The content of pages that the disk can't read for now. In memory, and so in every mapping, they are zeros.
  private(set) var unreadable: [Int: [UInt8]] = [:]
  /// The file's mappings on a machine that reports unreadable pages, and their lengths.
  private let mappings = Mutex<[(region: FaultRegion, byteCount: Int)]>([])
  /// Grows with every write.
  private(set) var changes: UInt64 = 0

  init() {
    memory = Block(byteCount: 4096)
    durable = Block(byteCount: 4096)
  }

  /// A file whose content is on disk.
  init(_ content: UnsafeRawBufferPointer) {
    memory = Block(byteCount: max(content.count, 512))
    durable = Block(byteCount: max(content.count, 512))
    if content.count > 0 {
      memory.bytes.copyMemory(from: content)
      durable.bytes.copyMemory(from: content)
    }
    byteCount = content.count
    durableByteCount = content.count
  }

  init(copying other: Inode) {
    memory = Block(byteCount: other.memory.bytes.count)
    durable = Block(byteCount: other.durable.bytes.count)
    memory.copy(0..<other.byteCount, from: other.memory)
    durable.copy(0..<other.durableByteCount, from: other.durable)
    byteCount = other.byteCount
    durableByteCount = other.durableByteCount
    dirty = other.dirty
    lost = other.lost
    unreadable = other.unreadable
  }

  var content: [UInt8] { Array(memory.bytes[..<byteCount]) }
  var isSynced: Bool { dirty.isEmpty && lost.isEmpty && durableByteCount == byteCount }

  func write(_ bytes: UnsafeRawBufferPointer, at position: Int) {
    changes += 1
    guard bytes.count > 0 else { return }
    let end = position + bytes.count
    reserve(end)
    UnsafeMutableRawBufferPointer(rebasing: memory.bytes[position..<end]).copyMemory(from: bytes)
    byteCount = max(byteCount, end)
    dirty.insert(position / Self.sectorByteCount...(end - 1) / Self.sectorByteCount)
    for page in pages(position..<end) { unreadable[page] = nil }
  }

  func resize(to count: Int) {
    changes += 1
    reserve(count)
    if count < byteCount { memory.zero(count..<byteCount) }
    unreadable = unreadable.filter { $0.key * Self.pageByteCount < count }
    byteCount = count
  }

  private func reserve(_ count: Int) {
    guard memory.bytes.count < count else { return }
    var capacity = memory.bytes.count
    while capacity < count { capacity *= 2 }
    let larger = Block(byteCount: capacity)
    larger.copy(0..<byteCount, from: memory)
    memory = larger
  }

  /// Changes what is on the disk, and what is read of it, unnoticed.
  func damage(_ body: (UnsafeMutableRawBufferPointer) -> Void) {
    body(UnsafeMutableRawBufferPointer(rebasing: memory.bytes[..<byteCount]))
    sync()
    let count = min(byteCount, durable.bytes.count)
    durable.copy(0..<count, from: memory)
  }

  // MARK: - Pages that can't be read

  /// The disk can't read a page from now on, and the kernel does not have it.
  func makeUnreadable(_ page: Int) {
    let start = page * Self.pageByteCount
    guard start < byteCount, unreadable[page] == nil else { return }
    let range = start..<min(start + Self.pageByteCount, byteCount)
    mappings.withLock { mappings in
      // As the handler for SIGBUS does: noted first, so that nobody sees zeros who can't see why.
      for mapping in mappings where start < mapping.byteCount {
        clinux_region_note(mapping.region.pointer, UInt64(start))
      }
    }
    unreadable[page] = Array(memory.bytes[range])
    memory.zero(range)
  }

  /// All of the file can be read again. A mapping still remembers that there were unreadable pages.
  func makeReadable() {
    for (page, bytes) in unreadable {
      let start = page * Self.pageByteCount
      let count = min(bytes.count, byteCount - start)
      bytes.withUnsafeBytes {
        UnsafeMutableRawBufferPointer(rebasing: memory.bytes[start..<start + count]).copyMemory(
          from: UnsafeRawBufferPointer(rebasing: $0[..<count]))
      }
    }
    unreadable = [:]
  }

  /// The number of bytes, of `count` from a position on, that can be read.
  func readableCount(_ count: Int, at position: Int) -> Int {
    guard !unreadable.isEmpty, let page = pages(position..<position + count).first(where: { unreadable[$0] != nil })
    else { return count }
    return max(0, page * Self.pageByteCount - position)
  }

  /// Whether the kernel would have to read a page that it can't, to write a part of it.
  func needsUnreadable(toWrite range: Range<Int>) -> Bool {
    pages(range).contains { page in
      let start = page * Self.pageByteCount
      return unreadable[page] != nil
        && (range.lowerBound > start || range.upperBound < min(start + Self.pageByteCount, byteCount))
    }
  }

  private func pages(_ range: Range<Int>) -> Range<Int> {
    if unreadable.isEmpty || range.isEmpty { return 0..<0 }
    return range.lowerBound / Self.pageByteCount..<(range.upperBound - 1) / Self.pageByteCount + 1
  }

  /// Reports unreadable pages to a mapping, existing ones first.
  func add(_ region: FaultRegion, byteCount: Int) {
    for page in unreadable.keys.sorted() where page * Self.pageByteCount < byteCount {
      clinux_region_note(region.pointer, UInt64(page * Self.pageByteCount))
    }
    mappings.withLock { $0.append((region, byteCount)) }
  }

  func remove(_ region: FaultRegion) {
    mappings.withLock { $0.removeAll { $0.region.pointer == region.pointer } }
    clinux_region_remove(region.pointer)
  }

  // MARK: - What reaches the disk

  private func setDurableByteCount(_ count: Int) {
    if durable.bytes.count < count {
      let larger = Block(byteCount: memory.bytes.count)
      larger.copy(0..<durableByteCount, from: durable)
      durable = larger
    }
    if count < durableByteCount {
      durable.zero(count..<durableByteCount)
    }
    durableByteCount = count
  }

  /// As far as both are that long.
  private func writeToDisk(_ sector: Int) {
    let start = sector * Self.sectorByteCount
    let end = min(start + Self.sectorByteCount, byteCount, durableByteCount)
    if start < end { durable.copy(start..<end, from: memory) }
  }

  func sync() {
    setDurableByteCount(byteCount)
    dirty.forEach { writeToDisk($0) }
    lost.remove(dirty)
    dirty.removeAll()
  }

  /// The kernel writes some of it by itself.
  func writeBack(where isChosen: () -> Bool) {
    if isChosen() { setDurableByteCount(max(durableByteCount, byteCount)) }
    var written = SectorSet()
    dirty.forEach { sector in
      // What is behind the size that is on disk could not be found there.
      guard (sector + 1) * Self.sectorByteCount <= durableByteCount, isChosen() else { return }
      writeToDisk(sector)
      written.insert(sector)
    }
    dirty.remove(written)
    lost.remove(written)
  }

  /// As Linux does when it can't write: the pages are clean from now on, though not on disk, and a second sync succeeds.
  func failSync(where isWritten: () -> Bool) {
    writeBack(where: isWritten)
    dirty.forEach { lost.insert($0) }
    dirty.removeAll()
  }

  /// The kernel needs memory: what it takes for written goes, and is read from the disk when it is needed.
  func evict() {
    lost.forEach { sector in
      let start = sector * Self.sectorByteCount
      let end = min(start + Self.sectorByteCount, byteCount)
      guard start < end else { return }
      memory.zero(start..<end)
      if start < durableByteCount { memory.copy(start..<min(end, durableByteCount), from: durable) }
    }
    lost.removeAll()
  }

  /// The power fails: what was synced stays, and of the rest what is chosen, size and sectors separately.
  func cutPower(_ generator: inout SeededGenerator, keep: UInt64) {
    let from = durableByteCount
    if byteCount != from, generator.next() % 100 < keep {
      // Several writes may have made it longer, and any of the sizes between may be there.
      let isWhole = generator.next() % 2 == 0
      setDurableByteCount(
        isWhole || byteCount < from ? byteCount : Int.random(in: from...byteCount, using: &generator))
    }
    dirty.forEach { sector in
      if generator.next() % 100 < keep { writeToDisk(sector) }
    }
    dirty.removeAll()
    lost.removeAll()
    // Existing mappings stay as they are, for their holders.
    memory = Block(byteCount: max(durable.bytes.count, 512))
    memory.copy(0..<durableByteCount, from: durable)
    byteCount = durableByteCount
  }
}
