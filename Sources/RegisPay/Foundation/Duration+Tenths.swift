extension Duration {
  /// Rounded to tenths of a second, for a person.
  var inTenths: Duration { .milliseconds(Int64((self / .milliseconds(100)).rounded()) * 100) }
}
