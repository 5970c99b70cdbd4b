/// Finds out whether the payments of a data directory were made with another PSP than the one that is to be called now. That one
/// would be asked again for what the other may have done, with the other's references: a charge could be made twice.
enum OtherPSP {
  /// Call it before anything is written and before a call goes out. Blocks for a small read.
  ///
  /// - Parameters:
  ///   - psp: the one to call now, see ``ServerOptions/psp``.
  ///   - isEmpty: the payments log has no event.
  static func check(_ options: ServerOptions, _ psp: String, isEmpty: Bool) throws(ServerError) {
    guard !options.acceptsNewPSP, let known = KnownLog(in: options.directory), let before = known.psp, before != psp,
      !isEmpty || known.events > 0
    else { return }
    throw .otherPSP(directory: options.directory, known: before, given: psp)
  }

  /// How a message says it.
  static func shown(_ psp: String) -> String { psp == ServerOptions.simulator ? "the simulator" : psp }

  /// What to start with for calls to this PSP.
  static func option(_ psp: String) -> String {
    psp == ServerOptions.simulator ? "without --psp-url" : "with --psp-url \(psp)"
  }
}
