import Foundation
import Testing

@testable import LogStore

/// LOGSTORE_DAMAGES sets how many stores are damaged: few by default, thousands for a soak.
private let damages = Int(ProcessInfo.processInfo.environment["LOGSTORE_DAMAGES"] ?? "") ?? 120

@Suite struct RepairCampaignTests {
  @Test("whatever is damaged, repair saves all that is not, and lists the rest exactly")
  func randomDamages() async throws {
    var generator = SeededGenerator.printed()
    let perStore = 40
    for round in 0..<(damages + perStore - 1) / perStore {
      let isClosed = round % 3 != 1
      let store = try await DamageableStore(&generator, isClosed: isClosed, isIndexed: round % 2 == 0)
      let originals = store.originals
      for _ in 0..<perStore {
        var files = originals
        var done: [String] = []
        for _ in 0..<[1, 1, 1, 2, 4].randomElement(using: &generator)! {
          let damage = RandomDamage.allCases.randomElement(using: &generator)!
          done.append(damage.apply(to: &files, of: store, &generator))
        }
        let text = done.joined(separator: ", ") + (isClosed ? ", closed" : ", not closed")
        await check(store, files, text)
      }
    }
  }

  private func check(_ store: DamageableStore, _ files: [String: [UInt8]], _ text: String) async {
    do {
      let damaged = TemporaryDirectory()
      let target = TemporaryDirectory()
      try write(files, to: damaged)
      let report: RepairReport
      do throws(LogStoreError) {
        report = try LogStore.repair(damaged.path, to: target.path)
      } catch {
        // Only where nothing is left to tell whose it was.
        guard case .repairRefused = error, !store.events.indices.contains(where: { store.isIntact($0, in: files) })
        else {
          Issue.record("\(text): \(error)")
          return
        }
        return
      }
      #expect(DamageableStore.contents(damaged.path) == files, "\(text): the damaged store was written to")
      let reader = try LogReader.open(target.path)
      let saved = try reader.events(from: 0, limit: .max)
      let guessed = report.guessedTimes
      for event in saved {
        let original = event.offset < UInt64(store.events.count) ? store.events[Int(event.offset)] : nil
        var expected = original
        if guessed.contains(where: { $0.contains(event.offset) }) {
          expected?.timestampMicroseconds = event.timestampMicroseconds
        }
        let isRight = event == expected
        #expect(isRight, "\(text): a wrong event at \(event.offset)")
        if !isRight { return }
      }
      var all = Set(saved.map(\.offset))
      #expect(all.count == saved.count && report.events == UInt64(saved.count), "\(text): an event twice")
      for missing in report.missing {
        for offset in missing.offsets { #expect(all.insert(offset).inserted, "\(text): \(offset) saved and missing") }
        for lost in missing.events {
          let original = store.events[Int(lost.offset)]
          #expect(lost.version == original.version && lost.stream ?? original.stream == original.stream, "\(text)")
        }
      }
      #expect(all == Set(0..<report.endOffset), "\(text): offsets that are neither saved nor missing")
      #expect(reader.gaps == report.missing.map(\.offsets) && reader.endOffset == report.endOffset, "\(text)")
      let end = UInt64(store.events.count)
      #expect(report.endOffset <= end, "\(text): more than there was")
      // Without a record of the end, what a crash may have left unfinished is no damage.
      let mayLoseEnd =
        report.isEndUnknown || files[FileName.clean] == nil
        || report.findings.contains { $0.file.hasSuffix(FileName.clean) }
      #expect(
        report.endOffset == end || mayLoseEnd, "\(text): ends with \(report.endOffset) of \(end), and does not say so")
      let savedOffsets = Set(saved.map(\.offset))
      var isFirst = true
      for offset in store.events.indices where UInt64(offset) < report.endOffset || !mayLoseEnd {
        let isIntact = store.isIntact(offset, in: files)
        defer { isFirst = isFirst && savedOffsets.contains(UInt64(offset)) == isIntact }
        guard isFirst else { break }
        #expect(
          savedOffsets.contains(UInt64(offset)) == isIntact,
          "\(text): offset \(offset) at \(store.records[offset]) is \(isIntact ? "sound and not saved" : "damaged and saved"); \(report.findings)"
        )
      }
      if report.endOffset < end, !report.isEndUnknown {
        for offset in Int(report.endOffset)..<store.events.count where files[FileName.clean] != nil {
          #expect(!store.isIntact(offset, in: files), "\(text): offset \(offset) is sound and was cut off")
        }
      }
      for (name, checkpoint) in try reader.cursors() {
        #expect(checkpoint <= store.cursors[name] ?? 0, "\(text): cursor \(name)")
      }
      try await goOn(target.path, report, store, saved, text)
    } catch {
      Issue.record("\(text): \(error)")
    }
  }

  /// The new store is one like any other.
  private func goOn(
    _ path: String, _ report: RepairReport, _ store: DamageableStore, _ saved: [Event], _ text: String
  ) async throws {
    let verified = try LogStore.verify(path)
    #expect(verified.findings.isEmpty && verified.events == report.events, "\(text): \(verified.findings)")
    let writer = try LogStore.open(path, options: smallSegments())
    var known: [String: UInt64] = [:]
    for event in saved { known[event.stream] = max(known[event.stream] ?? 0, event.version) }
    for missing in report.missing {
      for lost in missing.events {
        let stream = store.events[Int(lost.offset)].stream
        known[stream] = max(known[stream] ?? 0, lost.version)
      }
    }
    for (stream, version) in known {
      #expect(try writer.reader.streamVersion(stream) == version, "\(text): \(stream)")
      let events = try writer.reader.stream(stream, skippingMissing: true)
      #expect(events.map(\.version) == saved.filter { $0.stream == stream }.map(\.version), "\(text): \(stream)")
      let isWhole = events.map(\.version) == Array(1..<version + 1)
      do throws(LogStoreError) {
        let loaded = try writer.reader.stream(stream)
        #expect(isWhole && loaded == events, "\(text): \(stream) passes for whole")
      } catch {
        guard case .streamIncomplete = error else { throw error }
        #expect(!isWhole, "\(text): \(stream) is whole")
      }
    }
    guard let stream = known.keys.sorted().first, let version = known[stream] else { return try await writer.close() }
    let appended = try await writer.append(Append(event(stream), expecting: .version(version)))
    #expect(
      appended.offsets == report.endOffset..<report.endOffset + 1 && appended.versions == [version + 1], "\(text)")
    try await writer.close()
    #expect(try LogStore.verify(path).findings.isEmpty, "\(text)")
  }
}
