import Testing

@testable import LogStore

/// Which checkpoint follows from what was read and finished.
@Suite struct SubscriptionProgressTests {
  /// Has taken some offsets from 10 on.
  private func progress(_ count: UInt64) -> SubscriptionProgress {
    var progress = SubscriptionProgress(checkpoint: 10)
    for offset in 10..<10 + count { take(offset, &progress) }
    return progress
  }

  private func take(_ offset: UInt64, _ progress: inout SubscriptionProgress) {
    progress.take(offset)
    progress.read(upTo: offset + 1)
  }

  @Test("the next checkpoint is the lowest unfinished offset, whatever finishes first")
  func lowest() {
    var progress = progress(3)
    #expect(progress.nextCheckpoint == 10 && progress.uncommitted == nil)
    progress.finish(11)
    #expect(progress.nextCheckpoint == 10)
    progress.finish(10)
    #expect(progress.nextCheckpoint == 12 && progress.uncommitted == 12)
    progress.finish(12)
    #expect(progress.nextCheckpoint == 13)
  }

  @Test("skipped events move the next checkpoint, but never past an unfinished one")
  func skipping() {
    var progress = SubscriptionProgress(checkpoint: 0)
    progress.read(upTo: 2)
    #expect(progress.nextCheckpoint == 2)
    take(2, &progress)
    progress.read(upTo: 4)
    #expect(progress.nextCheckpoint == 2)
    progress.finish(2)
    #expect(progress.nextCheckpoint == 4)
  }

  @Test("offsets without events, as a repair leaves them, are skipped")
  func gap() {
    var progress = SubscriptionProgress(checkpoint: 0)
    take(0, &progress)
    take(5, &progress)
    #expect(progress.readOffset == 6 && progress.nextCheckpoint == 0)
    #expect(progress.nextCheckpoint(finishing: 0) == 5)
    progress.finish(0)
    progress.read(upTo: 2)
    #expect(progress.readOffset == 6)
    progress.finish(5)
    #expect(progress.nextCheckpoint == 6)
  }

  @Test(
    "the checkpoint that is stored with an effect is the next one once the effect is there, in every order of finishing"
  )
  func finishing() {
    var generator = SystemRandomNumberGenerator()
    for _ in 0..<200 {
      var progress = SubscriptionProgress(checkpoint: 0)
      var offsets: [UInt64] = []
      for offset in UInt64(0)..<20 {
        if Bool.random(using: &generator) {
          take(offset, &progress)
          offsets.append(offset)
        } else {
          progress.read(upTo: offset + 1)
        }
      }
      for offset in offsets.shuffled(using: &generator) {
        let promised = progress.nextCheckpoint(finishing: offset)
        progress.finish(offset)
        #expect(progress.nextCheckpoint == promised)
      }
      #expect(progress.nextCheckpoint == 20)
    }
  }

  @Test("one event that stays unfinished while a hundred thousand others finish takes no memory for those")
  func bounded() {
    var progress = progress(1)
    for offset in UInt64(11)..<100_000 {
      take(offset, &progress)
      progress.finish(offset)
    }
    #expect(progress.unfinishedCount == 1)
    #expect(progress.nextCheckpoint == 10)
    #expect(progress.rememberedCount < 1_000)
  }

  @Test("a checkpoint that is committed late does not move it back")
  func committedLate() {
    var progress = progress(3)
    for offset in UInt64(10)...12 { progress.finish(offset) }
    progress.noteCommitted(13)
    progress.noteCommitted(11)
    #expect(progress.checkpoint == 13 && progress.uncommitted == nil)
  }

  @Test("after moving back the checkpoint stays where reading continues, also while later events are in flight")
  func rewound() {
    var progress = progress(5)
    for offset in [UInt64(10), 11, 13] { progress.finish(offset) }
    progress.noteCommitted(12)
    progress.rewind(to: 4)
    #expect(progress.readOffset == 4 && progress.nextCheckpoint == 4 && progress.checkpoint == 4)
    #expect(progress.isUnfinished(12) && progress.isUnfinished(14))
    #expect(progress.nextCheckpoint(finishing: 12) == 4)
    // Read again, in order, between those in flight.
    take(4, &progress)
    take(5, &progress)
    progress.read(upTo: 13)
    take(13, &progress)
    progress.read(upTo: 15)
    var lowest: [UInt64] = []
    for offset in [UInt64(5), 4, 14, 12, 13] {
      #expect(progress.nextCheckpoint(finishing: offset) >= progress.nextCheckpoint)
      progress.finish(offset)
      lowest.append(progress.nextCheckpoint)
    }
    #expect(lowest == [4, 12, 12, 13, 15])
  }

  @Test("in every order of finishing and moving back, the next checkpoint is the lowest offset that is not finished")
  func model() {
    var generator = SystemRandomNumberGenerator()
    for _ in 0..<300 {
      var progress = SubscriptionProgress(checkpoint: 0)
      var unfinished: Set<UInt64> = []
      for _ in 0..<200 {
        switch Int.random(in: 0..<10, using: &generator) {
        case 0: progress.rewind(to: .random(in: 0...progress.readOffset, using: &generator))
        case 1...5:
          let offset = progress.readOffset
          if Bool.random(using: &generator) {
            unfinished.insert(offset)
            progress.take(offset)
          }
          progress.read(upTo: offset + 1)
        default:
          guard let offset = unfinished.randomElement(using: &generator) else { break }
          let promised = progress.nextCheckpoint(finishing: offset)
          progress.finish(offset)
          unfinished.remove(offset)
          #expect(progress.nextCheckpoint == promised)
        }
        #expect(progress.nextCheckpoint == min(unfinished.min() ?? .max, progress.readOffset))
        #expect(progress.unfinishedCount == unfinished.count)
      }
    }
  }
}
