/// Decides which index files to merge (docs/FORMAT.md). Files grow by levels of eight, like digits of a number, so the
/// number of files grows with the logarithm of the log's length, and each entry is written once for each level.
enum MergePlan {
  static let fanOut = 8

  /// The level of a file of this many segments.
  static func level(_ segmentCount: Int) -> Int {
    var level = 0
    var least = fanOut
    while segmentCount >= least {
      level += 1
      least *= fanOut
    }
    return level
  }

  /// The next files to merge, as a range of the given ones; nil if there is nothing to merge.
  ///
  /// - Parameter segmentCounts: the segment counts of adjacent files, from the oldest on.
  static func next(_ segmentCounts: [Int]) -> Range<Int>? {
    let levels = segmentCounts.map(level)
    // A newer file of a higher level absorbs the smaller ones before it, which were built late, after damage.
    for newer in levels.indices.dropFirst() where levels[newer - 1] < levels[newer] {
      var first = newer - 1
      while first > 0, levels[first - 1] < levels[newer] { first -= 1 }
      return first..<newer + 1
    }
    // From here on levels only fall, so the files up to a level are at the end.
    var least = 1
    for level in 0...(levels.max() ?? 0) {
      least *= fanOut
      var sum = 0
      let first = levels.firstIndex { $0 <= level } ?? levels.count
      for number in first..<levels.count {
        sum += segmentCounts[number]
        if sum >= least { return first..<number + 1 }
      }
    }
    return nil
  }

  /// The number of merges until there is nothing to merge. Takes time with the square of the number of files, which is a few
  /// dozen.
  static func dueCount(_ segmentCounts: [Int]) -> Int {
    var segmentCounts = segmentCounts
    var count = 0
    while let range = next(segmentCounts) {
      segmentCounts.replaceSubrange(range, with: [segmentCounts[range].reduce(0, +)])
      count += 1
    }
    return count
  }
}
