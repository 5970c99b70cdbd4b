import LogStore
import Logging
import Synchronization

/// The most recent payments, newest first: a projection of the log in memory, bounded to `capacity` payments. Older
/// ones are found by id, through their stream.
///
/// At start it reads a bounded window from the log's end, not the whole log. Safe to use from any task.
public final class PaymentList: Sendable {
  /// A payment as the list shows it.
  public struct Entry: Sendable, Hashable {
    public var payment: Payment
    public var version: UInt64
    /// Where the payment begins in the log: its place in the list, and the key of its pages.
    public var offset: UInt64
    public var createdMicroseconds: UInt64
    public var updatedMicroseconds: UInt64
  }

  public struct Page: Sendable {
    public var entries: [Entry]
    /// Give it as `after` for the next page; nil when the list has no more.
    public var next: UInt64?
    /// False when there are payments older than the list reaches back.
    public var isWholeLog: Bool
    /// The log's offset up to which the list is told.
    public var asOf: UInt64
  }

  private struct Inside {
    /// By `offset`, ascending.
    var entries: [Entry] = []
    var offsets: [PaymentID: UInt64] = [:]
    var isWholeLog = true
    var asOf: UInt64 = 0
  }

  public static let capacity = 10_000
  /// A payment has four events when all goes well.
  private static let startWindow: UInt64 = 4 * UInt64(capacity)

  private let log: PaymentLog
  private let logger: Logger
  private let inside = Mutex(Inside())

  public init(log: PaymentLog, logger: Logger) {
    self.log = log
    self.logger = logger
  }

  /// Follows the log until its task is cancelled.
  public func run() async throws(LogStoreError) {
    let end = log.reader.endOffset
    var place = end > Self.startWindow ? end - Self.startWindow : 0
    inside.withLock {
      $0.isWholeLog = place == 0
      $0.asOf = place
    }
    while !Task.isCancelled {
      do {
        let events = try log.reader.events(from: place, limit: 256)
        for event in events { take(event) }
        place = events.last.map { $0.offset + 1 } ?? place
        if events.isEmpty {
          _ = try await log.reader.waitForEvents(at: place)
        } else {
          // Behind a long log others want to run as well.
          await Task.yield()
        }
      } catch {
        if case .closed = error { return }
        logger.error("the list can't follow the log", metadata: ["offset": "\(place)", "error": "\(error)"])
        try? await Task.sleep(for: .seconds(5))
      }
    }
  }

  /// Payments newest first. Linear in the list's capacity when few match, else in `limit`.
  ///
  /// - Parameters:
  ///   - status: only these; nil for all.
  ///   - after: the `next` of the page before; nil for the first.
  public func page(status: PaymentStatus?, after: UInt64?, limit: Int) -> Page {
    inside.withLock { inside in
      var page = Page(entries: [], next: nil, isWholeLog: inside.isWholeLog, asOf: inside.asOf)
      let end = after.map { place(of: $0, in: inside.entries) } ?? inside.entries.count
      for entry in inside.entries[..<end].reversed() where status == nil || entry.payment.status == status {
        if page.entries.count == limit {
          page.next = page.entries.last?.offset
          break
        }
        page.entries.append(entry)
      }
      return page
    }
  }

  private func take(_ event: Event) {
    inside.withLock { $0.asOf = event.offset + 1 }
    // What can't be read is counted and logged by the completion consumer.
    guard let id = PaymentID(stream: event.stream),
      let known = try? PaymentEvent(type: event.type, payload: event.payload)
    else { return }
    let isKnown = inside.withLock { inside in
      guard let offset = inside.offsets[id] else { return false }
      let index = place(of: offset, in: inside.entries)
      // An event that can't be is left out; its payment's own page tells why.
      guard (try? inside.entries[index].payment.apply(known)) != nil else { return true }
      inside.entries[index].version = event.version
      inside.entries[index].updatedMicroseconds = event.timestampMicroseconds
      return true
    }
    if !isKnown { begin(id, at: event, known) }
  }

  private func begin(_ id: PaymentID, at event: Event, _ known: PaymentEvent) {
    if let payment = try? Payment(known) {
      insert(
        Entry(
          payment: payment, version: event.version, offset: event.offset,
          createdMicroseconds: event.timestampMicroseconds, updatedMicroseconds: event.timestampMicroseconds))
      return
    }
    // It began before the window that was read at start.
    guard let loaded = try? log.load(id), let first = loaded.events.first, let last = loaded.events.last else { return }
    // Told up to now; its events on the way here are then not possible any more and left out.
    insert(
      Entry(
        payment: loaded.payment, version: loaded.version, offset: first.offset,
        createdMicroseconds: first.timestampMicroseconds, updatedMicroseconds: last.timestampMicroseconds))
  }

  private func insert(_ entry: Entry) {
    inside.withLock { inside in
      let index = place(of: entry.offset, in: inside.entries)
      // Older than all in a full list: not ours to show.
      if index == 0, inside.entries.count >= Self.capacity { return }
      inside.entries.insert(entry, at: index)
      inside.offsets[entry.payment.id] = entry.offset
      // Dropped in bunches, as each drop moves all the rest.
      guard inside.entries.count >= Self.capacity + Self.capacity / 8 else { return }
      for old in inside.entries.prefix(Self.capacity / 8) { inside.offsets[old.payment.id] = nil }
      inside.entries.removeFirst(Self.capacity / 8)
      inside.isWholeLog = false
    }
  }

  /// The index of the first entry at or behind `offset`.
  private func place(of offset: UInt64, in entries: [Entry]) -> Int {
    var (low, high) = (0, entries.count)
    while low < high {
      let middle = (low + high) / 2
      if entries[middle].offset < offset { low = middle + 1 } else { high = middle }
    }
    return low
  }
}
