/// Why bytes are not what they should be, and where in their file.
struct Fault: Error, Equatable {
  var position: Int
  var reason: String
}
