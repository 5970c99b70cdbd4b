extension Range<UInt64> {
  /// The number of offsets, which `count` traps on when it is no `Int`.
  package var length: UInt64 { upperBound - lowerBound }
}
