import Foundation
import Hummingbird
import LogStore

/// `GET /api/v1/log`: the payments log's files, and what the engine does with them.
struct LogRoutes: Sendable {
  let log: PaymentLog
  /// The log's own directory.
  let directory: String
  /// What the log's scrub has done; nil if scrubbing is off.
  let scrub: @Sendable () -> Scrub.Report?

  /// The most segments in a response, the latest first.
  private static let segmentLimit = 1_000
  /// The most cursors and gaps in a response; a log holds at most 1,024 cursors.
  private static let listLimit = 1_024

  /// How the latest backup stands, of which another process takes care; nil if the operator named none.
  let backup: @Sendable () -> Backup?

  /// The latest backup in a directory.
  struct Backup: Sendable, Hashable {
    var directory: String
    /// When it was made, since 1970; nil as long as none was read.
    var microseconds: UInt64?
    /// The log's end then.
    var events: UInt64?
    /// Why it can't be read, or is not this log's.
    var fault: String?
  }

  /// A segment file.
  struct Segment: Sendable, Hashable {
    var file: String
    /// The offset of its first event.
    var offset: UInt64
    var byteCount: UInt64
    var changedSeconds: Double
  }

  func add(to router: Routes) {
    router.handle("/api/v1/log", [.get: { _, _ in try await show() }])
  }

  private func show() async throws -> Response {
    let segments = try await RequestThreads.run(.long) { () throws(Problem) in
      try Self.segments(in: directory)
    }
    let cursors = try await RequestThreads.run(.long) { () throws(Problem) in try self.cursors() }
    // Taken after the files were listed: the open segment's events are below it.
    let end = log.reader.endOffset
    let activity = log.store.activity
    let gaps = log.reader.gaps.prefix(Self.listLimit)
    let failure: JSONValue = if let failure = log.store.failure { .string("\(failure)") } else { .null }
    let scrub: JSONValue = if let report = scrub() { Self.json(report) } else { .null }
    var members: [JSONValue.Member] = [
      .init("storeId", .string(log.reader.storeID)), .init("endOffset", .integer(end)),
      .init("gaps", .array(gaps.map(Self.gap))), .init("failure", failure), .init("scrub", scrub),
      .init("backup", backup().map { Self.json($0, end: end) } ?? .null),
    ]
    members += Self.files(segments, end: end)
    members += Self.engine(activity)
    members.append(.init("cursors", .array(cursors.map { Self.cursor($0.name, at: $0.checkpoint, end: end) })))
    return Response(json: .object(members))
  }

  private static func json(_ backup: Backup, end: UInt64) -> JSONValue {
    [
      "directory": .string(backup.directory),
      "time": backup.microseconds.map { .string(timestamp(microseconds: $0)) } ?? .null,
      "events": backup.events.map { .integer($0) } ?? .null,
      "lag": backup.events.map { .integer(end - min(end, $0)) } ?? .null,
      "fault": backup.fault.map(JSONValue.string) ?? .null,
    ]
  }

  private static func gap(_ offsets: Range<UInt64>) -> JSONValue {
    ["offset": .integer(offsets.lowerBound), "events": .integer(offsets.upperBound - offsets.lowerBound)]
  }

  private static func cursor(_ name: String, at checkpoint: UInt64, end: UInt64) -> JSONValue {
    [
      "name": .string(name), "checkpoint": .integer(checkpoint), "lag": .integer(end - min(end, checkpoint)),
    ]
  }

  private static func engine(_ activity: StoreActivity) -> [JSONValue.Member] {
    let index: JSONValue = [
      "files": .integer(activity.indexFiles), "segmentsToIndex": .integer(activity.segmentsToIndex),
      "mergesDue": .integer(activity.mergesDue),
    ]
    let commits: JSONValue = [
      "count": .integer(activity.syncMicroseconds.count), "appends": .integer(activity.appends),
      "events": .integer(activity.events), "bytes": .integer(activity.bytes),
      "syncMilliseconds": .integer(activity.syncMicroseconds.sum / 1_000),
    ]
    return [
      .init("index", index), .init("commits", commits),
      .init("openingMilliseconds", .integer(activity.openingMicroseconds / 1_000)),
    ]
  }

  private static func files(_ segments: [Segment], end: UInt64) -> [JSONValue.Member] {
    [
      .init("segmentCount", .integer(segments.count)),
      .init("segmentBytes", .integer(segments.reduce(UInt64(0)) { $0 + $1.byteCount })),
      .init("segments", .array(json(segments, end: end))),
    ]
  }

  private func cursors() throws(Problem) -> [(name: String, checkpoint: UInt64)] {
    do {
      return Array(try log.reader.cursors().sorted { $0.name < $1.name }.prefix(Self.listLimit))
    } catch {
      throw Problem.unavailable("The log's cursors can't be read now: \(error)")
    }
  }

  /// The segment files in a directory, in the log's order.
  static func segments(in directory: String) throws(Problem) -> [Segment] {
    do {
      return try FileManager.default.contentsOfDirectory(atPath: directory).compactMap { file in
        guard file.hasSuffix(".log"), let offset = UInt64(file.dropLast(4)) else { return nil }
        let values = try FileManager.default.attributesOfItem(atPath: directory + "/" + file)
        return Segment(
          file: file, offset: offset, byteCount: (values[.size] as? NSNumber)?.uint64Value ?? 0,
          changedSeconds: (values[.modificationDate] as? Date)?.timeIntervalSince1970 ?? 0)
      }.sorted { $0.offset < $1.offset }
    } catch {
      throw Problem.unavailable("The log's directory can't be read now.")
    }
  }

  private static func json(_ segments: [Segment], end: UInt64) -> [JSONValue] {
    let ends = segments.dropFirst().map(\.offset) + [end]
    let latest = zip(segments, ends).suffix(segmentLimit).reversed()
    return latest.enumerated().map { number, entry in json(entry.0, end: entry.1, isOpen: number == 0) }
  }

  private static func json(_ segment: Segment, end: UInt64, isOpen: Bool) -> JSONValue {
    [
      "file": .string(segment.file), "offset": .integer(segment.offset),
      "events": .integer(end - min(end, segment.offset)), "bytes": .integer(segment.byteCount),
      "changedAt": .string(timestamp(microseconds: UInt64(max(segment.changedSeconds, 0) * 1e6))),
      "state": .string(isOpen ? "open" : "finished"),
    ]
  }

  private static func json(_ report: Scrub.Report) -> JSONValue {
    [
      "rounds": .integer(report.rounds), "progress": .rounded(report.progress), "bytes": .integer(report.bytes),
      "findings": .array(report.findings.prefix(100).map { .string("\($0)") }),
    ]
  }
}
