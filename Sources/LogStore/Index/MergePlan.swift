/// Which index files are to become one, docs/FORMAT.md: files grow by levels of eight, as digits do in a number, so that
/// their number grows with the logarithm of the log's length and each entry is written once for each level.
enum MergePlan {
  static let fanOut = 8

  /// The level of a file of so many segments.
  static func level(_ segmentCount: Int) -> Int {
    var level = 0
    var least = fanOut
    while segmentCount >= least {
      level += 1
      least *= fanOut
    }
    return level
  }

  /// The next files to merge, as a range of the given ones; nil when all is as it should be.
  ///
  /// - Parameter segmentCounts: of neighbouring files, from the oldest on.
  static func next(_ segmentCounts: [Int]) -> Range<Int>? {
    let levels = segmentCounts.map(level)
    // A newer file of a higher level takes up the smaller ones before it: they were made late, after damage.
    for newer in levels.indices.dropFirst() where levels[newer - 1] < levels[newer] {
      var first = newer - 1
      while first > 0, levels[first - 1] < levels[newer] { first -= 1 }
      return first..<newer + 1
    }
    // From here on levels only fall, so those up to a level are at the end.
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
}
