/// The token that this server's consumers send to its own simulators: 256 random bits, created at each start and kept in memory only.
/// Only the simulators' routes accept it, beside a key. It is never sent to another server.
struct InternalToken: Sendable {
  /// The value of the `Authorization` field.
  let authorization = "Bearer " + hexadecimal(randomBytes(32))

  func matches(_ authorization: String) -> Bool {
    equalInConstantTime(authorization.utf8, self.authorization.utf8)
  }
}
