import Foundation
import Testing

@testable import LogStore

/// A directory of a test's own, removed at its end.
final class TemporaryDirectory: Sendable {
  let path: String

  init() {
    path = FileManager.default.temporaryDirectory.appendingPathComponent("logstore-\(UUID().uuidString)").path
  }

  deinit {
    try? FileManager.default.removeItem(atPath: path)
  }

  func file(_ name: String) -> String { path + "/" + name }

  func names(_ suffix: String) -> [String] {
    ((try? FileManager.default.contentsOfDirectory(atPath: path)) ?? []).filter { $0.hasSuffix(suffix) }.sorted()
  }
}

extension TemporaryDirectory {
  /// Offsets that each index file covers, by name; from the first one on.
  var indexRanges: [Range<UInt64>] {
    names(".idx").compactMap(FileName.indexRange).sorted { $0.lowerBound < $1.lowerBound }
  }

  /// Whether index files cover every finished segment.
  var isIndexed: Bool {
    var end: UInt64 = 0
    for range in indexRanges where range.lowerBound <= end { end = max(end, range.upperBound) }
    return names(".log").last.flatMap { FileName.baseOffset($0, suffix: ".log") } == end
  }
}

func bytes(_ text: String) -> [UInt8] { Array(text.utf8) }

func event(_ stream: String, _ payload: String = "{}", type: String = "Happened", id: EventID? = nil) -> NewEvent {
  NewEvent(stream: stream, type: type, payload: bytes(payload), id: id)
}

/// A small segment, so that tests cross many.
func smallSegments(_ byteCount: Int = 64 << 10) -> LogStore.Options {
  var options = LogStore.Options()
  options.segmentBytes = byteCount
  return options
}

func expectThrows<Value>(
  _ matches: (LogStoreError) -> Bool, sourceLocation: SourceLocation = #_sourceLocation,
  _ body: () async throws(LogStoreError) -> Value
) async {
  do throws(LogStoreError) {
    _ = try await body()
    Issue.record("nothing was thrown", sourceLocation: sourceLocation)
  } catch {
    #expect(matches(error), "\(error)", sourceLocation: sourceLocation)
  }
}

extension StoreID {
  static func random() -> StoreID {
    StoreID(first: .random(in: .min ... .max), second: .random(in: .min ... .max))
  }
}

/// Copies a store that a writer may still be at work in, as a crash would leave it: without unfinished files, and without
/// index files that are merged and removed meanwhile.
func copyStore(_ path: String, to target: String) throws {
  let files = FileManager.default
  try files.createDirectory(atPath: target, withIntermediateDirectories: true)
  for name in try files.contentsOfDirectory(atPath: path) where !name.hasSuffix(".tmp") {
    do {
      try files.copyItem(atPath: path + "/" + name, toPath: target + "/" + name)
    } catch {
      guard name.hasSuffix(".idx"), !files.fileExists(atPath: path + "/" + name) else { throw error }
    }
  }
}

/// Runs `body` on a thread of its own; a machine that has none ends the test.
func startTestThread(_ name: String, _ body: @escaping @Sendable () -> Void) {
  do throws(LogStoreError) {
    try startThread(name, nil, body)
  } catch {
    preconditionFailure("\(error)")
  }
}
