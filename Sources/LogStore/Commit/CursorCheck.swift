/// Checks an append's cursor commits against the cursors as they are with the group being built. An append without cursors
/// costs nothing.
struct CursorCheck {
  /// Why the append is refused, whatever its other conditions.
  private(set) var refusal: LogStoreError?
  /// A cursor would move back. This is an error unless the append is a repeat, whose cursors were committed with the
  /// original.
  private var behind: LogStoreError?

  /// - Parameter end: the end of the log, including the append's events.
  init(_ append: EncodedAppend, _ checkpoints: Checkpoints, end: UInt64) {
    if append.cursors.isEmpty { return }
    var count = checkpoints.count
    // Checkpoints that earlier cursor commits of this append have set.
    var changed: [[UInt8]: UInt64?] = [:]
    for (index, cursor) in append.cursors.enumerated() {
      let known = changed.isEmpty ? nil : changed[cursor.name]
      let present = known ?? checkpoints[cursor.name]
      var checkpoint: UInt64? = cursor.checkpoint
      if cursor.isDeletion {
        if present != nil { count -= 1 }
        checkpoint = nil
      } else if cursor.checkpoint > end {
        refusal = .invalidArgument(
          "cursor \(Self.text(cursor.name)) can't move to offset \(cursor.checkpoint), the log ends with \(end)")
        return
      } else if let present {
        if !cursor.isReset, cursor.checkpoint < present {
          checkpoint = present
          if !cursor.mayLag, behind == nil {
            behind = .cursorBehind(name: Self.text(cursor.name), checkpoint: cursor.checkpoint, present: present)
          }
        }
      } else {
        count += 1
        guard count <= Limits.cursors else {
          refusal = .limitExceeded(
            what: "the number of cursors", actual: UInt64(count), limit: UInt64(Limits.cursors))
          return
        }
      }
      if append.cursors.count > index + 1 { changed[cursor.name] = .some(checkpoint) }
    }
  }

  /// The decision on the append, if nothing else refuses it.
  var decision: CommitLoop.Decision { behind.map { .refuse($0) } ?? .accept }

  private static func text(_ name: [UInt8]) -> String { String(decoding: name, as: UTF8.self) }
}
