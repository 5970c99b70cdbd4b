import Synchronization

/// Copies of the events, in finished segments, of streams that were recently read more than once.
///
/// Without the cache the cost of a load grows with the log even if the stream is hot: its events, the headers of their
/// frames and its entries in the index lie on pages of their own, ever more of them and far apart. An event never changes
/// and a finished segment gets no more, so an entry stays true, and an append need not update it: a load reads only the
/// segments behind ``Entry/coveredEnd``, and so does an append that needs the stream's version.
///
/// A stream enters the cache when it is read the second time within about as many reads of other streams as would fit, so
/// that reading many streams once costs nothing (the idea of 2Q's queue of names: T. Johnson and D. Shasha, VLDB 1994).
/// When the cache is full, it evicts streams that were not read since they were last considered (CLOCK: F. J. Corbató,
/// 1968).
///
/// Thread-safe. A search takes one lock, held for some ten instructions.
final class StreamCache: Sendable {
  /// Used when the caller sets no size.
  static let defaultByteCount = 32 << 20
  static let byteCountMin = 1 << 20
  /// The tables for this size take 512 MiB.
  static let byteCountMax = 64 << 30
  /// A longer stream takes so long to read that its location hardly matters.
  static let streamByteCount = 64 << 10

  struct Entry: Sendable {
    /// The events from version 1 on, without a gap; at least one.
    var records: PackedRecords
    /// The records are all events of the stream in segments that begin before this offset, which is the base offset of a
    /// segment.
    var coveredEnd: UInt64
  }

  enum SearchResult: Sendable {
    case known(Entry)
    /// Not in the cache, and should enter it.
    case wanted
    case unknown
  }

  private let shards: [Shard]

  /// Refuses an impossible size.
  static func check(byteCount: Int) throws(LogStoreError) {
    guard byteCount == 0 || (byteCountMin...byteCountMax).contains(byteCount) else {
      throw .invalidArgument(
        "a stream cache of \(byteCount) bytes; it must be 0, for none, or \(byteCountMin) to \(byteCountMax)")
    }
  }

  /// - Parameter byteCount: the memory that the events may take, at least ``byteCountMin``.
  init(byteCount: Int) {
    let shardCount = 8
    shards = (0..<shardCount).map { _ in Shard(byteCount: byteCount / shardCount) }
  }

  /// The entry of a stream that is being read, or whether the stream should enter the cache.
  func find(_ stream: StreamKey) -> SearchResult {
    let result = shard(of: stream.hash).state.withLock { $0.find(stream.hash) }
    guard case .known(let entry) = result else { return result }
    entry.records.prefetch()
    // Another stream with the same hash may have the entry, and keeps it until it is evicted.
    return entry.records.isNamed(stream.name) ? result : .unknown
  }

  /// The entry of a stream of which only the version is needed, which is no reason to keep the entry.
  func peek(_ stream: StreamKey) -> Entry? {
    guard let entry = shard(of: stream.hash).state.withLock({ $0.known(stream.hash) }),
      entry.records.isNamed(stream.name)
    else { return nil }
    return entry
  }

  /// Adds an entry. Replaces another entry of the stream, unless that one covers more.
  func insert(_ entry: Entry, of stream: StreamKey) {
    shard(of: stream.hash).state.withLock { $0.insert(entry, stream.hash) }
  }

  /// Removes the entry of a stream whose copies were found damaged.
  func forget(_ stream: StreamKey) {
    shard(of: stream.hash).state.withLock { $0.forget(stream.hash) }
  }

  /// How often ``find(_:)`` found a stream in the cache, and how often not.
  var findCounts: (hits: UInt64, misses: UInt64) {
    shards.reduce((0, 0)) { sum, shard in
      shard.state.withLock { (sum.0 + $0.findCounts.hits, sum.1 + $0.findCounts.misses) }
    }
  }

  /// The size of all entries in bytes.
  var byteCount: Int { shards.reduce(0) { $0 + $1.state.withLock { $0.byteCount } } }

  private func shard(of hash: UInt64) -> Shard { shards[Int(hash >> 61)] }
}

/// An eighth of the streams, so that concurrent searches seldom contend.
private final class Shard: Sendable {
  let state: Mutex<ShardState>

  init(byteCount: Int) {
    state = Mutex(ShardState(byteCountMax: byteCount))
  }
}

/// Entries by hash, in chains. Of two streams with the same hash the first one stays.
private struct ShardState {
  /// Random, so that nobody can choose names that make long chains.
  private static let seed = UInt64.random(in: .min ... .max)
  /// The size of a stream of a few events, which determines the size of the tables.
  private static let expectedByteCount = 1024

  private struct Node {
    var hash: UInt64
    /// nil: the node is free.
    var entry: StreamCache.Entry?
    /// The number + 1 of the next node of its chain, or of the next free node; 0: none.
    var next: UInt32
    /// Read since the clock hand passed it.
    var isHot: Bool

    /// The approximate memory of the node, with the overhead of the array and the allocator.
    var byteCount: Int { (entry?.records.byteCount ?? 0) + MemoryLayout<Node>.size + 48 }
  }

  private let byteCountMax: Int
  private(set) var byteCount = 0
  private(set) var findCounts: (hits: UInt64, misses: UInt64) = (0, 0)
  private var nodes: [Node] = []
  private var firstFree: UInt32 = 0
  private var hand = 0
  /// The number + 1 of the first node of each chain. Allocated for the first stream.
  private var chains: [UInt32] = []
  /// Recently read streams that are not in the cache: one part of the hash, at the slot that another part selects.
  private var seen: [UInt32] = []

  init(byteCountMax: Int) {
    self.byteCountMax = byteCountMax
  }

  mutating func known(_ hash: UInt64) -> StreamCache.Entry? {
    guard let number = number(of: hash) else { return nil }
    nodes[number].isHot = true
    return nodes[number].entry
  }

  mutating func find(_ hash: UInt64) -> StreamCache.SearchResult {
    if let entry = known(hash) {
      findCounts.hits += 1
      return .known(entry)
    }
    findCounts.misses += 1
    if chains.isEmpty { makeTables() }
    let scattered = Self.scatter(hash)
    let slot = Int(scattered & UInt64(seen.count - 1))
    let mark = UInt32(truncatingIfNeeded: scattered >> 32)
    if seen[slot] == mark { return .wanted }
    seen[slot] = mark
    return .unknown
  }

  mutating func insert(_ entry: StreamCache.Entry, _ hash: UInt64) {
    if let number = number(of: hash), let known = nodes[number].entry {
      if known.coveredEnd >= entry.coveredEnd { return }
      forget(hash)
    }
    if chains.isEmpty { makeTables() }
    let number = takeFree()
    let chain = Int(Self.scatter(hash) & UInt64(chains.count - 1))
    nodes[number] = Node(hash: hash, entry: entry, next: chains[chain], isHot: false)
    chains[chain] = UInt32(number) + 1
    byteCount += nodes[number].byteCount
    while byteCount > byteCountMax { evict() }
  }

  mutating func forget(_ hash: UInt64) {
    guard !chains.isEmpty else { return }
    let chain = Int(Self.scatter(hash) & UInt64(chains.count - 1))
    var before: Int?
    var next = chains[chain]
    while next != 0 {
      let number = Int(next) - 1
      if nodes[number].hash == hash {
        if let before { nodes[before].next = nodes[number].next } else { chains[chain] = nodes[number].next }
        byteCount -= nodes[number].byteCount
        nodes[number] = Node(hash: 0, entry: nil, next: firstFree, isHot: false)
        firstFree = UInt32(number) + 1
        return
      }
      before = number
      next = nodes[number].next
    }
  }

  private func number(of hash: UInt64) -> Int? {
    guard !chains.isEmpty else { return nil }
    var next = chains[Int(Self.scatter(hash) & UInt64(chains.count - 1))]
    while next != 0 {
      let number = Int(next) - 1
      if nodes[number].hash == hash { return number }
      next = nodes[number].next
    }
    return nil
  }

  /// Evicts the next node that was not read since the clock hand passed it. There must be one.
  private mutating func evict() {
    // Terminates: in the second round no node is hot.
    while true {
      hand = hand + 1 < nodes.count ? hand + 1 : 0
      guard nodes[hand].entry != nil else { continue }
      if nodes[hand].isHot {
        nodes[hand].isHot = false
      } else {
        return forget(nodes[hand].hash)
      }
    }
  }

  private mutating func takeFree() -> Int {
    guard firstFree != 0 else {
      nodes.append(Node(hash: 0, entry: nil, next: 0, isHot: false))
      return nodes.count - 1
    }
    let number = Int(firstFree) - 1
    firstFree = nodes[number].next
    return number
  }

  private mutating func makeTables() {
    var count = 16
    while count < byteCountMax / Self.expectedByteCount { count *= 2 }
    chains = [UInt32](repeating: 0, count: count)
    seen = [UInt32](repeating: 0, count: count)
  }

  private static func scatter(_ hash: UInt64) -> UInt64 { mixed(hash ^ seed) }
}
