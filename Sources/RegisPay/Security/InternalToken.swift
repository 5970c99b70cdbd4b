/// What this server's consumers send to its own simulators: 256 random bits made at each start, kept in memory only. The
/// simulators' routes take it besides a key, and no other route does; it is sent to no other server.
struct InternalToken: Sendable {
  /// The value of the `Authorization` field.
  let authorization = "Bearer " + hexadecimal(randomBytes(32))

  func matches(_ authorization: String) -> Bool {
    equalInConstantTime(authorization.utf8, self.authorization.utf8)
  }
}
