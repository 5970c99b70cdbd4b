import Synchronization

/// The streams that were read more than once lately: copies of their events in finished segments, in memory.
///
/// Without it, what a load costs grows with the log, though the stream is hot: its events, the headers of their frames and
/// its entries in the index lie on pages of their own, which are ever more, and far from each other. An event never changes
/// and a finished segment gets no more, so what is kept here stays true, and nobody has to be told of an append: a load looks
/// only at the segments behind ``Entry/coveredEnd``, and so does an append that needs the stream's version.
///
/// A stream comes in when it is read the second time within about as many reads of others as would fit, so that reading
/// many streams once costs nothing (the idea of 2Q's queue of names: T. Johnson and D. Shasha, VLDB 1994). When there is no
/// room, those go that were not read since they were looked at last (CLOCK: F. J. Corbató, 1968).
///
/// May be used from any thread. A look costs one lock that is held for some ten instructions.
final class StreamCache: Sendable {
  /// For who doesn't say.
  static let defaultByteCount = 32 << 20
  static let byteCountMin = 1 << 20
  /// The tables of so many bytes take 512 MiB.
  static let byteCountMax = 64 << 30
  /// A longer stream takes so long to read that where it lies makes little of it.
  static let streamByteCount = 64 << 10

  struct Entry: Sendable {
    /// From version 1 on, without a gap; at least one.
    var records: PackedRecords
    /// They are all that the stream has in segments that begin before this offset, where one begins.
    var coveredEnd: UInt64
  }

  enum Answer: Sendable {
    case known(Entry)
    /// Not known, and would be welcome.
    case wanted
    case unknown
  }

  private let shards: [Shard]

  /// Refuses what can't be a size.
  static func check(byteCount: Int) throws(LogStoreError) {
    guard byteCount == 0 || (byteCountMin...byteCountMax).contains(byteCount) else {
      throw .invalidArgument(
        "a stream cache of \(byteCount) bytes; it must be 0, for none, or \(byteCountMin) to \(byteCountMax)")
    }
  }

  /// - Parameter byteCount: how much memory the events may take, at least ``byteCountMin``.
  init(byteCount: Int) {
    let shardCount = 8
    shards = (0..<shardCount).map { _ in Shard(byteCount: byteCount / shardCount) }
  }

  /// What is known of a stream that is read, and whether it should become known.
  func find(_ stream: StreamKey) -> Answer {
    let answer = shard(of: stream.hash).state.withLock { $0.find(stream.hash) }
    guard case .known(let entry) = answer else { return answer }
    entry.records.prefetch()
    // Another stream with the same hash may have it, and keeps it until it goes.
    return entry.records.isNamed(stream.name) ? answer : .unknown
  }

  /// What is known of a stream whose version is asked for alone, which is no reason to keep it.
  func peek(_ stream: StreamKey) -> Entry? {
    guard let entry = shard(of: stream.hash).state.withLock({ $0.known(stream.hash) }),
      entry.records.isNamed(stream.name)
    else { return nil }
    return entry
  }

  /// Takes an entry in, in the place of another of the stream, if that isn't one that covers more.
  func keep(_ entry: Entry, of stream: StreamKey) {
    shard(of: stream.hash).state.withLock { $0.keep(entry, stream.hash) }
  }

  /// Lets go of what was found not to be whole.
  func forget(_ stream: StreamKey) {
    shard(of: stream.hash).state.withLock { $0.forget(stream.hash) }
  }

  /// What is kept, in bytes.
  var byteCount: Int { shards.reduce(0) { $0 + $1.state.withLock { $0.byteCount } } }

  private func shard(of hash: UInt64) -> Shard { shards[Int(hash >> 61)] }
}

/// An eighth of the streams, so that those who look at once seldom meet.
private final class Shard: Sendable {
  let state: Mutex<ShardState>

  init(byteCount: Int) {
    state = Mutex(ShardState(byteCountMax: byteCount))
  }
}

/// Entries by hash, in chains. Of two streams with the same hash the first one stays.
private struct ShardState {
  /// So that nobody can choose names whose chains are long.
  private static let seed = UInt64.random(in: .min ... .max)
  /// A stream of a few events, for the size of the tables.
  private static let expectedByteCount = 1024

  private struct Node {
    var hash: UInt64
    /// Nil: the node is free.
    var entry: StreamCache.Entry?
    /// The number + 1 of the next one of its chain, or of the next free one; 0: none.
    var next: UInt32
    /// Read since the hand came by.
    var isHot: Bool

    /// What it takes of memory, as near as matters: with the array's and the allocator's own.
    var byteCount: Int { (entry?.records.byteCount ?? 0) + MemoryLayout<Node>.size + 48 }
  }

  private let byteCountMax: Int
  private(set) var byteCount = 0
  private var nodes: [Node] = []
  private var firstFree: UInt32 = 0
  private var hand = 0
  /// The number + 1 of the first node of each chain. Made when the first stream comes.
  private var chains: [UInt32] = []
  /// Of streams read lately that are not here: a part of the hash, where another part says.
  private var seen: [UInt32] = []

  init(byteCountMax: Int) {
    self.byteCountMax = byteCountMax
  }

  mutating func known(_ hash: UInt64) -> StreamCache.Entry? {
    guard let number = number(of: hash) else { return nil }
    nodes[number].isHot = true
    return nodes[number].entry
  }

  mutating func find(_ hash: UInt64) -> StreamCache.Answer {
    if let entry = known(hash) { return .known(entry) }
    if chains.isEmpty { makeTables() }
    let scattered = Self.scatter(hash)
    let place = Int(scattered & UInt64(seen.count - 1))
    let mark = UInt32(truncatingIfNeeded: scattered >> 32)
    if seen[place] == mark { return .wanted }
    seen[place] = mark
    return .unknown
  }

  mutating func keep(_ entry: StreamCache.Entry, _ hash: UInt64) {
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

  /// Lets go of the next one that was not read since the hand came by. There must be one.
  private mutating func evict() {
    // Ends: on the second round nothing is hot.
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
