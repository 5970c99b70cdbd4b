extension StoreOptions {
  private static let gatherMillisecondsMax: UInt32 = 1000

  /// The options as they are used. Throws if a value is out of range.
  func checked() throws(LogStoreError) -> StoreOptions {
    guard Limits.segmentBytes.contains(segmentBytes) else {
      throw .invalidArgument(
        "a segment size of \(segmentBytes) bytes; it must be \(Limits.segmentBytes.lowerBound) to"
          + " \(Limits.segmentBytes.upperBound)")
    }
    try StreamCache.check(byteCount: streamCacheBytes)
    guard gatherMilliseconds <= Self.gatherMillisecondsMax else {
      throw .invalidArgument(
        "\(gatherMilliseconds) ms to gather appends; it must be 0 to \(Self.gatherMillisecondsMax)")
    }
    var options = self
    // The limits are multiples, so this stays in range.
    options.segmentBytes = segmentBytes.roundedUp(to: SegmentHeader.byteCount)
    return options
  }
}
