import Glibc

/// The operating system's text for an `errno` value.
func systemMessage(_ code: Int32) -> String {
  String(cString: strerror(code))
}
