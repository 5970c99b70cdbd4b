@testable import LogStore

// A disk that does not keep what it was given: flipped bits, writes that never happened or went elsewhere, files that are
// shorter, or gone. Every damage is found or does not matter: nothing wrong is served, nothing is missing silently.

extension Simulation {
  private enum Harm: String, CaseIterable {
    case flippedBit, lostSector, lostPartOfSector, misdirectedSector, cutFile, removedFile
    /// The file `store` is gone, and the first page of frames, or all behind the header.
    case lostBeginning
  }

  /// Damages a copy of the disk between two lives, and checks it in every way.
  func damage(_ seed: UInt64) {
    var generator = SeededGenerator(seed)
    let copy = machine.copy()
    let model = Model(copying: model)
    guard let (path, harm) = harm(copy, &generator) else { return }
    let what = "\(harm.rawValue) in \(path)"
    trace("damage: \(what)")
    let disk = SimulatedDisk(copy, number: 90, scheduler: scheduler)
    if harm != .removedFile {
      do throws(LogStoreError) {
        var verification = Verification(directory: Self.directory, disk: disk, progress: nil)
        try verification.run()
        if verification.report.findings.isEmpty { return fail("\(what): verify finds nothing") }
      } catch {
        guard isRefusal(error) else { return fail("\(what), verify: \(error)") }
      }
    }
    do throws(LogStoreError) {
      let store = try LogStore.open(Self.directory, options: Self.options, disk: disk)
      defer { store.abandon() }
      for stream in 0..<Self.streamCount {
        do throws(LogStoreError) {
          if let problem = try model.check(store.reader, stream: streamName(stream), from: 1) {
            fail("\(what): \(problem)")
          }
        } catch {
          guard isRefusal(error) else { return fail("\(what): \(error)") }
        }
      }
      if let problem = try model.check(store.reader, openingIn: life + 1) { fail("\(what): \(problem)") }
    } catch {
      if !isRefusal(error) { fail("\(what): \(error)") }
    }
  }

  private func isRefusal(_ error: LogStoreError) -> Bool {
    switch error {
    case .damaged, .unsupportedFormat: true
    default: false
    }
  }

  private func harm(_ machine: SimulatedMachine, _ generator: inout SeededGenerator) -> (String, Harm)? {
    machine.withState { state in
      let prefix = Self.directory + "/"
      let paths = state.names.files.keys.filter { $0.hasPrefix(prefix) }.sorted()
      let last = paths.last { $0.hasSuffix(".log") }
      let isClosed = paths.contains(prefix + FileName.clean)
      let candidates = paths.filter { path in
        let name = path.dropFirst(prefix.count)
        return name == FileName.store || name == FileName.clean || name.hasSuffix(".idx") || name.hasSuffix(".log")
      }
      guard !candidates.isEmpty else { return nil }
      let path = candidates.drawn(&generator)
      var harm = Harm.allCases.drawn(&generator)
      if harm == .lostBeginning {
        let first = prefix + FileName.segment(0)
        guard let inode = state.names.files[first], inode.byteCount > SegmentHeader.byteCount,
          state.names.files[prefix + FileName.store] != nil
        else { return nil }
        state.change(.removed(prefix + FileName.store))
        if generator.oneIn(2) {
          inode.resize(to: SegmentHeader.byteCount)
        } else {
          inode.damage { for index in 4096..<min(8192, $0.count) { $0[index] = 0 } }
        }
        state.syncDirectory(Self.directory)
        return (first, harm)
      }
      // Proof: it is one of the names.
      let inode = state.names.files[path]!
      if inode.byteCount == 0 { return nil }
      // After a crash the end of the log is what is there, so only damage before what is proven can be detected.
      let isOpen = path == last && !isClosed
      let proven = isOpen ? FormatCheck(segment: inode.content).frames().map(\.synced).max() ?? 0 : inode.byteCount
      if isOpen, proven < Inode.sectorByteCount || harm == .cutFile || harm == .removedFile { return nil }
      switch harm {
      case .lostBeginning: break
      case .cutFile: inode.resize(to: generator.below(inode.byteCount))
      case .removedFile: state.change(.removed(path))
      case .flippedBit, .lostSector, .lostPartOfSector, .misdirectedSector:
        let before = inode.content
        let other = state.names.files[candidates.drawn(&generator)]?.content ?? before
        inode.damage { bytes in
          // Mostly where there are bytes.
          let used = bytes.count - (generator.oneIn(4) ? 0 : bytes.reversed().prefix { $0 == 0 }.count)
          let position = generator.below(max(min(used, proven), 1))
          let start = position / Inode.sectorByteCount * Inode.sectorByteCount
          let end = min(start + Inode.sectorByteCount, bytes.count, proven)
          switch harm {
          case .flippedBit: bytes[position] ^= 1 << UInt8(generator.below(8))
          case .lostSector: for index in start..<end { bytes[index] = 0 }
          case .lostPartOfSector: for index in position..<end { bytes[index] = 0 }
          default:
            let source = generator.below(max(other.count, 1)) / Inode.sectorByteCount * Inode.sectorByteCount
            for index in start..<end where source + index - start < other.count {
              bytes[index] = other[source + index - start]
            }
          }
        }
        if inode.content == before {
          // Then a bit: something must be wrong.
          let position = generator.below(proven)
          inode.damage { $0[position] ^= 1 << UInt8(generator.below(8)) }
          harm = .flippedBit
        }
      }
      state.syncDirectory(Self.directory)
      return (path, harm)
    }
  }
}
