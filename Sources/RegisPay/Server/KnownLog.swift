import Foundation

/// What a data directory remembers of its payments log, in the file `payments.known`. A log that was lost, replaced or cut can't
/// tell this itself, and none says which PSP its payments were made with.
struct KnownLog: Sendable, Hashable {
  static let fileName = "payments.known"
  /// With more ranges, ``missing`` becomes one range from the first to the last.
  static let rangeLimit = 16

  /// The log's id; nil if the file does not say it. An earlier version wrote more digits.
  var storeID: String?
  /// The log's end when the file was written: the log has had at least this number of events. 0 in a file that says the PSP only.
  var events: UInt64
  /// The PSP that the payments were made with, see ``ServerOptions/psp``; nil if the file does not say it, as that of an earlier
  /// version.
  var psp: String?
  /// The log was restored from a backup, and no server has opened it since.
  var isRestored = false
  /// Offsets of events that were on the log and were gone at a start.
  private(set) var missing = RangeSet<UInt64>()
  /// Why the file could not be read; nil if it could. Such a file only proves that there were events.
  private(set) var fault: String?

  init(
    storeID: String, events: UInt64, psp: String? = nil, isRestored: Bool = false, missing: RangeSet<UInt64> = .init()
  ) {
    self.storeID = storeID
    self.events = events
    self.psp = psp
    self.isRestored = isRestored
    self.missing = missing
  }

  static func path(in directory: String) -> String { directory + "/" + fileName }

  /// Reads the file; nil if there is none. A file that can't be read, or that a power cut has torn, still proves that there were
  /// events. Blocks for a read of at most ``SmallFile/byteLimit`` bytes.
  init?(in directory: String) {
    let path = Self.path(in: directory)
    guard FileManager.default.fileExists(atPath: path) else { return nil }
    var json: JSONValue?
    do {
      if let bytes = try SmallFile.read(path) { json = try JSONReader.read(bytes) }
    } catch {
      fault = "\(error)"
    }
    storeID = json?["storeID"]?.text
    if storeID == nil, fault == nil { fault = "it does not name the log" }
    psp = json?["psp"]?.text
    isRestored = json?["restored"] == .bool(true)
    events = json?["events"]?.unsigned ?? 1
    guard case .array(let ranges)? = json?["missing"] else { return }
    for range in ranges {
      guard let first = range["first"]?.unsigned, let last = range["last"]?.unsigned, first <= last, last < .max
      else { continue }
      missing.insert(contentsOf: first..<last + 1)
    }
  }

  /// Notes that the log ends with fewer events than it has had.
  mutating func noteEnd(_ end: UInt64) {
    guard end < events else { return }
    missing.insert(contentsOf: end..<events)
    events = end
    if missing.ranges.count > Self.rangeLimit, let first = missing.ranges.first, let last = missing.ranges.last {
      missing.insert(contentsOf: first.lowerBound..<last.upperBound)
    }
  }

  /// Replaces the file. Blocks until it is synced.
  func write(in directory: String) throws(SmallFile.Failure) {
    var members: [JSONValue.Member] = [.init("events", .integer(events)), .init("storeID", .string(storeID ?? ""))]
    if let psp { members.append(.init("psp", .string(psp))) }
    if isRestored { members.append(.init("restored", .bool(true))) }
    if !missing.isEmpty {
      members.append(
        .init(
          "missing",
          .array(missing.ranges.map { ["first": .integer($0.lowerBound), "last": .integer($0.upperBound - 1)] })))
    }
    // Torn, it would not know the log's id any more, nor that events are missing.
    try SmallFile.write(JSONValue.object(members).bytes, to: Self.path(in: directory), syncs: true)
  }

  /// A line for ``Health`` and the log; nil if nothing is missing.
  func warning(in directory: String) -> String? {
    guard !missing.isEmpty else { return nil }
    let offsets = missing.ranges.map { "\($0.lowerBound)..\($0.upperBound - 1)" }.joined(separator: ", ")
    return
      "the payments log was shorter at a start than it had been: the events that had the offsets \(offsets) are gone,"
      + " because an older backup was restored, or because the log has lost its end. What they recorded may have happened at the"
      + " PSP: see \"Backup and restore\" in docs/OPERATIONS.md. To end this warning, remove \(Self.path(in: directory))"
  }
}
